"""Four throw-away tenants that only have to live in the house: does the spine carry them?

A generator that takes two steps a draw and learns against the student; an objective with a
connector; a rule that masks weights; a network that answers with a dict.
"""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from doublure.core.protocols import (
    Batch,
    FeatureNames,
    LossTerms,
    Outputs,
    StreamContext,
    image_batch,
)
from doublure.core.seeding import child, child_seed
from doublure.engine.distill import distill
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import Weighted
from tests import tiny


@dataclass(frozen=True, kw_only=True)
class Generated:
    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "Generating":
        assert teacher is not None
        return Generating(context, teacher, rng)


class Generating:
    """Owns its optimizer; steps by autograd.grad on its own parameters only."""

    def __init__(self, context: StreamContext, teacher: nn.Module, rng: torch.Generator) -> None:
        self.context, self.teacher, self.rng = context, teacher, rng
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(child_seed(rng.initial_seed(), "weights"))
            self.generator = nn.Sequential(nn.Linear(6, 64), nn.Sigmoid())
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=1e-2)

    def images(self, step: int, part: int) -> torch.Tensor:
        noise = torch.randn(self.context.batch_size, 6, generator=child(self.rng, step, part))
        return self.generator(noise).view(-1, 1, 8, 8)

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        assert student is not None
        judge = copy.deepcopy(student).eval()
        for part in range(2):
            images = self.images(step, part)
            gap = -F.l1_loss(judge(images), self.teacher(images))
            gradients = torch.autograd.grad(gap, list(self.generator.parameters()))
            for parameter, gradient in zip(self.generator.parameters(), gradients, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
        return image_batch(self.images(step, 2).detach(), metrics={"gap": -gap.detach()})

    def state_dict(self) -> dict[str, Any]:
        return {"g": self.generator.state_dict(), "o": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["g"])
        self.optimizer.load_state_dict(state["o"])


@dataclass(frozen=True, kw_only=True)
class Hints:
    """Match a wider layer through a connector."""

    student_layer: str
    teacher_layer: str

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> "Hinting":
        return Hinting(self, rng)


class Hinting(nn.Module):
    def __init__(self, settings: Hints, rng: torch.Generator) -> None:
        super().__init__()
        self.features = FeatureNames(
            student=(settings.student_layer,), teacher=(settings.teacher_layer,)
        )
        self.connector = nn.Conv2d(4, 8, 1, bias=False)
        with torch.no_grad():
            self.connector.weight.normal_(generator=rng)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        ours, theirs = (
            student.features[self.features.student[0]],
            teacher.features[self.features.teacher[0]],
        )
        return {"hint": F.mse_loss(self.connector(ours), theirs)}


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Keep a random half of one layer's weights."""

    layer: str

    def open(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, rng: torch.Generator
    ) -> "Masking":
        return Masking(student, student.get_submodule(self.layer).weight, rng)


class Masking:
    def __init__(self, student: nn.Module, weight: nn.Parameter, rng: torch.Generator) -> None:
        self.student, self.weight, self.rng = student, weight, rng
        self.mask = torch.rand(weight.shape, generator=rng) < 0.5

    def before_step(self, step: int, batch: Batch) -> None:
        if step == 5:  # a mask that changes on the way must travel with the checkpoint
            self.mask = torch.rand(self.weight.shape, generator=child(self.rng, step)) < 0.5

    def after_step(self, step: int) -> None:
        with torch.no_grad():
            self.weight.mul_(self.mask)

    def finish(self) -> nn.Module:
        return nn.Sequential(self.student, nn.Identity())

    def state_dict(self) -> dict[str, Any]:
        return {"mask": self.mask}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mask = state["mask"]


class Boxes(nn.Module):
    """Answers with a dict, as detectors do."""

    def __init__(self, seed: int, width: int = 4) -> None:
        super().__init__()
        self.net = tiny.network(seed, width)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(images)
        return {"logits": logits, "boxes": logits.unsqueeze(-1).expand(-1, -1, 4)}


class MatchBoxes:
    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> LossTerms:
        return {
            name: F.l1_loss(student.output[name], teacher.output[name]) for name in student.output
        }


def run(student, teacher, source, objective, rules=(), checkpointer=None, logger=None):
    settings = tiny.settings()
    return distill(
        student,
        teacher,
        source,
        objective,
        settings=settings,
        context=tiny.context(settings),
        rng=tiny.rng(),
        rules=rules,
        checkpointer=checkpointer,
        logger=logger,
    )


HINTS = Weighted(terms=((1.0, SoftTargets()), (2.0, Hints(student_layer="0", teacher_layer="0"))))
TENANTS = {
    "generator": lambda **more: run(
        tiny.network(1), tiny.network(0), Generated(), SoftTargets(), **more
    ),
    "connector": lambda **more: run(
        tiny.network(1), tiny.network(0, width=8), tiny.Grey(), HINTS, **more
    ),
    "mask": lambda **more: run(
        tiny.network(1), tiny.network(0), tiny.Grey(), SoftTargets(), (Masked(layer="6"),), **more
    ),
    "dict": lambda **more: run(Boxes(1), Boxes(0), tiny.Grey(), MatchBoxes(), **more),
}


@pytest.mark.parametrize("name", TENANTS)
def test_a_tenant_goes_on_from_any_step_with_the_same_bits(name):
    whole = tiny.Memory(4, 6)
    expected = TENANTS[name](checkpointer=whole)
    for state in whole.states:
        checkpointer = tiny.Memory()
        checkpointer.held = state
        assert tiny.same_weights(TENANTS[name](checkpointer=checkpointer).network, expected.network)


@pytest.mark.parametrize("name", TENANTS)
def test_a_tenant_says_its_terms_by_name(name):
    lines = []
    TENANTS[name](logger=lines.append)
    expected = {"generator": "gap", "connector": "hint", "mask": "soft_targets", "dict": "boxes"}
    assert expected[name] in lines[-1] | lines[-1]["metrics"]


def test_a_connector_learns_and_leaves_no_hook_behind():
    student, teacher, checkpointer = tiny.network(1), tiny.network(0, width=8), tiny.Memory(1)
    run(student, teacher, tiny.Grey(), HINTS, checkpointer=checkpointer)
    first, last = checkpointer.states[0]["adapters"][0], checkpointer.states[-1]["adapters"][0]
    assert not torch.equal(first, last)
    assert not any(m._forward_hooks for net in (student, teacher) for m in net.modules())


def test_a_rule_holds_its_mask_and_says_which_network_to_keep():
    network = TENANTS["mask"]().network
    weight = network[0][6].weight
    assert 0 < (weight == 0).float().mean() < 1
    assert isinstance(network, nn.Sequential)
    assert len(network) == 2


def test_a_generator_gets_no_gradient_from_the_student_and_gives_it_none():
    student = tiny.network(1)
    generating = Generated().open(tiny.context(), tiny.network(0).eval(), tiny.rng())
    generating.draw(0, student)
    assert all(parameter.grad is None for parameter in student.parameters())
