import pytest

from doublure.catalogue import CODEC
from doublure.engine.fit import FitSettings
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.schedules import Constant, Cosine, CosineRestarts, Milestones, OneCycle
from doublure.nets.references import NetworkRef
from doublure.objectives.soft_targets import SoftTargets
from doublure.sources.noise import Noise


def test_cosine_rises_linearly_peaks_and_falls_to_nothing():
    rates = [Cosine(warmup=0.05).rate_at(0.4, step, 1000) for step in (0, 24, 50, 525)]
    assert rates == pytest.approx([0.4 / 51, 0.4 * 25 / 51, 0.4, 0.2])
    assert 0 < Cosine().rate_at(0.4, 999, 1000) < 1e-5


def test_one_cycle_starts_at_a_25th_and_peaks_after_three_tenths():
    rates = [OneCycle().rate_at(0.5, step, 1000) for step in (0, 300, 650)]
    assert rates == pytest.approx([0.02, 0.5, 0.25])


def test_each_restart_begins_at_the_peak_and_lasts_longer():
    schedule = CosineRestarts(period=10, growth=2.0)
    rates = [schedule.rate_at(1.0, step, 1000) for step in (0, 5, 10, 20, 30)]
    assert rates == pytest.approx([1.0, 0.5, 1.0, 0.5, 1.0])
    assert schedule.rate_at(1.0, 29, 1000) < 0.01


def test_a_milestone_multiplies_the_rate_from_its_step_on():
    schedule = Milestones(shares=(0.5, 0.75), factor=0.1)
    rates = [schedule.rate_at(2.0, step, 100) for step in (0, 49, 50, 74, 75, 99)]
    assert rates == pytest.approx([2.0, 2.0, 0.2, 0.2, 0.02, 0.02])


def test_a_constant_rate_stays():
    assert {Constant().rate_at(0.3, step, 9) for step in range(9)} == {0.3}


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Cosine(warmup=1.5), "warmup must lie in"),
        (lambda: CosineRestarts(period=0), "period must be positive, got 0"),
        (lambda: CosineRestarts(growth=0.5), "growth must be at least 1, got 0.5"),
        (lambda: Milestones(shares=(2.0,)), "shares must lie in"),
    ],
)
def test_values_that_make_no_schedule_are_refused(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_a_recipe_says_its_schedule_by_kind_and_a_kind_alone_may_be_set():
    stage = Stage(source=Noise(), objective=SoftTargets(), fit=FitSettings())
    recipe = Recipe(verb="train", method="x", student=NetworkRef(ref="y"), stages=(stage,))
    assert CODEC.to_table(recipe)["stages"][0]["fit"]["schedule"] == {
        "kind": "cosine",
        "warmup": 0.05,
    }
    changed = CODEC.replace_keys(recipe, {"schedule": "milestones"})
    assert changed.stages[0].fit.schedule == Milestones()
    assert CODEC.from_toml(CODEC.to_toml(changed)) == changed
    shorter = CODEC.replace_keys(recipe, {"warmup": "0.2"})
    assert shorter.stages[0].fit.schedule == Cosine(warmup=0.2)
