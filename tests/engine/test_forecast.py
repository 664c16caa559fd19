"""What a run is said to take before its first step."""

from dataclasses import replace

import pytest

from doublure.engine import forecast as module
from doublure.engine.answer_ring import Ring
from doublure.engine.forecast import Answers, count_answers, duration, forecast
from doublure.engine.recipe import Recipe, Stage
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.objectives.soft_targets import SoftTargets
from doublure.sources.deep_inversion import DeepInversion
from doublure.sources.noise import Noise
from doublure.sources.replay import Replay
from tests import tiny


def stage(steps: int, source: object = None, **changes: object) -> Stage:
    return replace(
        Stage(source=source or Noise(), objective=SoftTargets(), fit=tiny.settings(steps=steps)),
        **changes,
    )


def test_a_step_is_an_answer_of_the_teacher_and_a_lesson_of_the_student():
    size = tiny.settings().batch_size
    assert count_answers(stage(100)) == Answers(teacher=100 * size, student=300 * size)


def test_a_ring_asks_the_teacher_less_often():
    size = tiny.settings().batch_size
    assert count_answers(stage(90, ring=Ring(reuse=3))).teacher == 30 * size


def test_a_pool_of_searched_images_costs_its_iterations():
    size = tiny.settings().batch_size
    pool = Replay(source=DeepInversion(optimisation=tiny.SEARCH), first=2, every=50)
    # Two batches before and one each fifty steps, each searched for by iterations with gradients.
    searched = 3 * tiny.SEARCH.iterations * (2 + 2) * size
    assert count_answers(stage(100, pool)).teacher == 100 * size + searched


def test_only_a_long_run_is_told_how_long(monkeypatch):
    student, teacher = (Network(tiny.network(i), tiny.CONTRACT) for i in (0, 1))
    monkeypatch.setattr(module, "seconds_to_answer", lambda network: 0.001)
    reference = NetworkRef(ref="builtin/tiny")
    size = tiny.settings().batch_size

    def of(steps: int) -> str | None:
        recipe = Recipe(student=reference, stages=(stage(steps),))
        return forecast(recipe, teacher, student)

    assert of(int(590 / 0.004 / size)) is None
    told = of(int(7200 / 0.004 / size))
    assert told is not None
    assert "steps need about 2 hours here, about 2 seconds on a GPU at 5 TFLOP/s" in told


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.1, "2 seconds"),
        (89, "89 seconds"),
        (600, "10 minutes"),
        (5400, "1.5 hours"),
        (2e5, "2.3 days"),
    ],
)
def test_durations_are_said_in_the_unit_of_a_person(seconds, said):
    assert duration(seconds) == said
