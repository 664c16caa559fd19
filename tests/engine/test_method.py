import dataclasses

import pytest

from doublure.engine.fit import FitSettings
from doublure.engine.method import Method, MethodInputs, choose_optimizer
from doublure.engine.optimizers import AdamW
from doublure.engine.recipe import Recipe, Stage
from doublure.nets.builtin import build
from doublure.nets.references import NetworkRef
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.soft_targets import SoftTargets
from doublure.sources.flat import Flat
from doublure.sources.noise import Noise
from doublure.tasks.translation.contract import MARKS, TextContract
from tests import tiny

TEACHER, STUDENT = NetworkRef(ref="teacher"), NetworkRef(ref="student")
TEXT = TextContract(languages=("de", "en"), source=MARKS, target=MARKS)
PLAIN = MethodInputs(contract=tiny.CONTRACT)


def two_stages(given: MethodInputs) -> tuple[Stage, ...]:
    stage = Stage(source=given.base or Noise(), objective=SoftTargets(), fit=FitSettings(steps=5))
    return (stage, stage)


def recipe(given: MethodInputs, **said) -> Recipe:
    return Method(name="mine", stages=two_stages, **said).recipe(TEACHER, STUDENT, given, seed=3)


def test_a_method_as_it_was_published_bears_its_name():
    made = recipe(PLAIN)
    assert (made.method, made.teacher, made.student, made.seed) == ("mine", TEACHER, STUDENT, 3)


@pytest.mark.parametrize(
    "change", [{"base": Flat()}, {"without": frozenset({"mixup"})}, {"objective": HardLabels()}]
)
def test_with_a_part_swapped_or_left_out_it_is_custom(change):
    assert recipe(dataclasses.replace(PLAIN, **change), parts=("mixup",)).method == "custom"


def test_images_that_a_method_asks_for_leave_it_its_name():
    assert recipe(dataclasses.replace(PLAIN, base=Flat()), needs="images").method == "mine"


def test_an_objective_takes_the_place_of_the_last_one_alone():
    first, last = recipe(dataclasses.replace(PLAIN, objective=HardLabels())).stages
    assert (first.objective, last.objective) == (SoftTargets(), HardLabels())


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ("images", "mine needs images; name a folder"),
        ("labels", "mine needs labelled images"),
        ("sentences", "mine needs sentences; name parallel text"),
    ],
)
def test_what_a_method_needs_is_asked_for(needs, told):
    with pytest.raises(ValueError, match=told):
        recipe(PLAIN, needs=needs)


TRANSLATES = MethodInputs(contract=TEXT, task="translation")


def test_sentences_are_asked_for_and_images_refused_where_the_teacher_translates():
    with pytest.raises(ValueError, match="mine needs sentences; name parallel text"):
        recipe(TRANSLATES, needs="sentences", tasks=("translation",))
    with pytest.raises(ValueError, match=r"mine is for classification, but .* one of translation"):
        recipe(TRANSLATES, tasks=("classification",))


def test_a_part_that_is_not_there_is_refused_with_those_that_are():
    given = dataclasses.replace(PLAIN, without=frozenset({"mixups"}))
    with pytest.raises(ValueError, match="mine has no part 'mixups' to omit; change"):
        recipe(given)
    with pytest.raises(ValueError, match=r"part of mine 'mixups'.*mixup"):
        recipe(given, parts=("mixup",))


def test_a_student_with_layer_normalisation_alone_learns_by_adamw():
    made = recipe(PLAIN)
    shape = {"classes": 3, "channels": 1, "size": (8, 8)}
    fits = [stage.fit for stage in choose_optimizer(made, build("vit-small", **shape)).stages]
    assert {fit.optimizer for fit in fits} == {AdamW()}
    assert [fit.learning_rate for fit in fits] == [1e-3, 1e-3]
    assert [fit.steps for fit in fits] == [5, 5]
    assert choose_optimizer(made, build("convnet-6", **shape)) == made


def test_an_optimizer_other_than_sgd_is_kept():
    def adam(given: MethodInputs) -> tuple[Stage, ...]:
        fit = FitSettings(optimizer=AdamW(), learning_rate=5e-4)
        return (Stage(source=Noise(), objective=SoftTargets(), fit=fit),)

    made = Method(name="mine", stages=adam).recipe(TEACHER, STUDENT, PLAIN)
    assert choose_optimizer(made, build("vit-small", classes=3, channels=1, size=(8, 8))) == made
