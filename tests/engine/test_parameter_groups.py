"""Rates and decays by kind of layer, and a rule that sees gradients."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from doublure.core.protocols import Batch, GradientHook
from doublure.core.seeding import from_seed
from doublure.engine.distill import distill, stream_context
from doublure.engine.fit import FitSettings
from doublure.engine.optimizers import SGD
from doublure.engine.parameter_groups import (
    ParameterGroup,
    parameter_groups,
    undecayed_vectors,
)
from doublure.engine.schedules import Constant
from doublure.nets.network import Network
from doublure.objectives.logit_l1 import LogitL1
from doublure.sources.noise import Noise
from tests import tiny

SCALE = ParameterGroup(layers="batchnorm", parameters="weight", rate=0.5, decay=0.0)


def network(seed: int) -> Network:
    return Network(tiny.network(seed), tiny.CONTRACT)


def test_the_first_group_that_fits_a_parameter_is_its_own():
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    whole = ParameterGroup(layers="batchnorm", rate=0.1)
    found = parameter_groups(body, (SCALE, whole), (("2.*", 3.0),))
    by_factor = {(g["factor"], g.get("weight_decay")): len(g["params"]) for g in found}
    # The convolution's two, the scale, the shift, and the classifier's two.
    assert by_factor == {(1.0, None): 2, (0.5, 0.0): 1, (0.1, None): 1, (3.0, None): 2}


def test_without_groups_all_is_one_list():
    (group,) = parameter_groups(tiny.network(0))
    assert group.keys() == {"params", "factor"}
    assert len(group["params"]) == len(list(tiny.network(0).parameters()))


def test_a_group_that_fits_nothing_is_refused():
    with pytest.raises(ValueError, match="the student has no bias of layernorm layers; remove"):
        parameter_groups(tiny.network(0), (ParameterGroup(layers="layernorm", parameters="bias"),))
    with pytest.raises(ValueError, match=r"rates match no parameter of the student: \['head'\]"):
        parameter_groups(tiny.network(0), (), (("head", 2.0),))


def test_vectors_are_told_by_the_type_of_their_layer():
    body = nn.Sequential(
        nn.Conv2d(1, 1, 1),
        nn.BatchNorm2d(1),
        nn.PReLU(1),
        nn.LayerNorm(1),
        nn.Linear(1, 2, bias=False),
    )
    groups = undecayed_vectors(body, batchnorm_rate=0.01)
    found = parameter_groups(body, groups)
    names = {id(parameter): name for name, parameter in body.named_parameters()}
    laid = {
        (group["factor"], group.get("weight_decay")): sorted(names[id(p)] for p in group["params"])
        for group in found
    }
    assert laid == {
        (1.0, None): ["0.weight", "2.weight", "4.weight"],  # of which the first is 1 x 1 x 1 x 1
        (0.01, 0.0): ["1.weight"],
        (1.0, 0.0): ["0.bias", "1.bias", "3.bias", "3.weight"],
    }


def test_the_rate_of_scales_keeps_its_ratio_under_a_schedule():
    student, rule = network(0), Watching()
    rates: list[list[float]] = []
    rule.after = lambda optimizer: rates.append([g["lr"] for g in optimizer.param_groups])
    groups = undecayed_vectors(student, batchnorm_rate=0.01)
    step(student, network(1), FitSettings(steps=6, batch_size=4, groups=groups), [rule])
    assert len(rates) == 6
    for whole, *others in rates:
        assert sorted(others) == pytest.approx([0.01 * whole, whole])


def test_a_rate_of_one_in_groups_trains_as_without():
    """Groups that say what the settings say are another order of the same arithmetic."""
    plain, grouped = network(0), network(0)
    settings = FitSettings(steps=4, batch_size=4, weight_decay=0.0)
    step(plain, network(1), settings, [])
    groups = undecayed_vectors(grouped, batchnorm_rate=1.0)
    step(grouped, network(1), dataclasses.replace(settings, groups=groups), [])
    assert tiny.same_weights(plain, grouped)


def test_a_scale_without_decay_shrinks_by_its_gradient_alone():
    """With a loss that is zero only decay moves the weights: by (1 - rate decay) a step."""
    student, teacher = network(0), network(0)
    settings = FitSettings(
        steps=1,
        batch_size=4,
        learning_rate=0.1,
        optimizer=SGD(momentum=0.0),
        weight_decay=0.5,
        schedule=Constant(),
        groups=(ParameterGroup(layers="batchnorm", decay=0.0),),
    )
    student.eval()
    before = copy.deepcopy(student.body.state_dict())
    step(student, teacher, settings, rules=[Silent()])
    for name, parameter in student.body.named_parameters():
        kept = 1.0 if name.startswith("1.") else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter.detach(), kept * before[name])


class Silent:
    """Rule: no gradient is used."""

    def open(self, student: nn.Module, optimizer: Any, rng: torch.Generator) -> "Silencing":
        return Silencing(student)


class Silencing:
    def __init__(self, student: nn.Module) -> None:
        self.student = student
        self.norms: list[float] = []

    def before_step(self, step: int, batch: Batch) -> None:
        pass

    def after_backward(self, step: int) -> None:
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        for gradient in gradients:
            gradient.zero_()

    def after_step(self, step: int) -> None:
        pass

    def finish(self) -> nn.Module:
        return self.student

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Watching(Silent):
    """The same, remembered, so that the test can look at it."""

    after: Callable[[Any], None] | None = None

    def open(self, student: nn.Module, optimizer: Any, rng: torch.Generator) -> Silencing:
        self.hook = Silencing(student)
        if self.after is not None:
            look = self.after
            self.hook.after_step = lambda step: look(optimizer)
        return self.hook


def step(student: Network, teacher: Network, settings: FitSettings, rules: Any) -> None:
    distill(
        student,
        teacher,
        Noise(),
        LogitL1(),
        settings=settings,
        context=stream_context(tiny.CONTRACT, student, settings),
        rng=from_seed(0),
        rules=rules,
    )


def test_a_rule_may_see_the_gradients_of_every_step_and_change_them():
    student, rule = network(0), Watching()
    assert isinstance(Silencing(student), GradientHook)
    settings = FitSettings(steps=3, batch_size=4, weight_decay=0.0, learning_rate=0.1)
    before = copy.deepcopy(dict(student.body.named_parameters()))
    step(student, network(1), settings, [rule])
    assert len(rule.hook.norms) == 3
    assert min(rule.hook.norms) > 0
    for name, parameter in student.body.named_parameters():
        assert torch.equal(parameter, before[name])
