"""Optimizers as values: what torch is given, in a recipe and by --set."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from doublure import recipe_file
from doublure.engine.fit import fit
from doublure.engine.optimizers import SGD, AdamW
from doublure.engine.recipe import Recipe, RecipeError, Stage
from doublure.nets.references import NetworkRef
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import Stateless
from doublure.sources.noise import Noise
from tests import tiny

TEACHER, STUDENT = NetworkRef(ref="builtin/convnet-6"), NetworkRef(ref="builtin/convnet-4")


def trained(**changes: Any) -> torch.nn.Module:
    settings = tiny.settings(**changes)
    stream = tiny.Grey(labels=True).open(tiny.context(settings), None, tiny.rng(0))
    loss = Stateless(HardLabels())
    return fit(tiny.network(1), stream, loss, settings=settings, rng=tiny.rng(0)).network


def recipe() -> Recipe:
    stage = Stage(source=Noise(), objective=SoftTargets())
    return Recipe(verb="distill", method="x", teacher=TEACHER, student=STUDENT, stages=(stage,))


def parameters() -> list[dict[str, Any]]:
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    return [{"params": [first]}, {"params": [second], "weight_decay": 0.0}]


@pytest.mark.parametrize(
    ("settings", "made", "shown"),
    [
        (SGD(momentum=0.5), torch.optim.SGD, {"momentum": 0.5, "nesterov": True}),
        (SGD(momentum=0.0), torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
        (AdamW(betas=(0.8, 0.9)), torch.optim.AdamW, {"betas": (0.8, 0.9), "eps": 1e-8}),
    ],
)
def test_torch_is_given_the_settings(settings, made, shown):
    optimizer = settings.make(parameters(), rate=0.3, decay=0.1)
    assert type(optimizer) is made
    assert shown.items() <= optimizer.defaults.items()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.3}


def test_a_student_depends_on_the_optimizer_and_its_settings():
    usual = trained(optimizer=AdamW(), learning_rate=1e-3)
    others = (AdamW(betas=(0.9, 0.99)), AdamW(epsilon=1e-3), SGD())
    assert tiny.same_weights(trained(optimizer=AdamW(), learning_rate=1e-3), usual)
    for other in others:
        assert not tiny.same_weights(trained(optimizer=other, learning_rate=1e-3), usual)


def test_what_no_optimizer_takes_is_refused():
    with pytest.raises(ValueError, match=r"betas must lie in \[0, 1\), got \(0.9, 1.0\)"):
        AdamW(betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="momentum must lie in"):
        SGD(momentum=1.5)


def test_a_later_key_means_a_field_of_the_kind_that_an_earlier_one_named():
    made = recipe_file.replace_keys(
        recipe(), {"optimizer": "adamw", "betas": "[0.5, 0.6]", "optimizer.epsilon": "0.1"}
    )
    (stage,) = made.stages
    assert stage.fit.optimizer == AdamW(betas=(0.5, 0.6), epsilon=0.1)
    assert recipe_file.from_toml(recipe_file.to_toml(made)) == made
    with pytest.raises(RecipeError, match="betas"):
        recipe_file.replace_keys(recipe(), {"betas": "[0.5, 0.6]"})
    with pytest.raises(RecipeError, match="unknown kind of optimizer 'adam'"):
        recipe_file.replace_keys(recipe(), {"optimizer": "adam"})


@dataclass(frozen=True, kw_only=True)
class OfUser:
    """An optimizer that is not ours."""

    def make(
        self, groups: Iterable[dict[str, Any]], *, rate: float, decay: float
    ) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(groups, lr=rate, weight_decay=decay)


def test_a_user_plugs_in_an_optimizer():
    own = trained(optimizer=OfUser(), learning_rate=1e-2)
    assert not tiny.same_weights(own, trained(learning_rate=1e-2))
