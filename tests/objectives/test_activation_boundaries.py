from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import image_batch
from doublure.engine.distill import distill
from doublure.nets.convnet import ConvNet
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import freeze
from doublure.objectives.activation_boundaries import (
    ActivationBoundaries,
    balanced_agreement,
    boundary_loss,
    same_side,
)
from doublure.objectives.pairing import Layers
from doublure.objectives.weighted import Weighted
from tests import tiny

DEFAULTS = {"weight": 0.003, "margin": 1.0, "find": "stages"}

IMAGES = torch.rand(6, 1, 8, 8, generator=tiny.rng())


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def network(seed: int, width: int) -> ConvNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvNet(width=width, classes=3, channels=1)


def test_both_sides_by_hand():
    teacher = rows(1, 1, -1, -1)
    loss = boundary_loss(rows(-2, -0.5, 0.5, 2), teacher, 1.0)
    assert loss.tolist() == [[9, 2.25, 2.25, 9]]
    loss = boundary_loss(rows(2, 0.5, -0.5, -2), teacher, 1.0)
    assert loss.tolist() == [[0, 0.25, 0.25, 0]]


def test_zero_is_inactive():
    assert boundary_loss(rows(-1.0), rows(0.0), 1.0).item() == 0


@given(seed=st.integers(0, 99), scale=st.floats(0.01, 100))
def test_how_far_the_teacher_is_on_its_side_does_not_matter(seed, scale):
    student, teacher = draw(seed, 3, 5), draw(seed + 100, 3, 5)
    loss = boundary_loss(student, teacher, 1.0)
    assert torch.equal(boundary_loss(student, scale * teacher, 1.0), loss)


@given(seed=st.integers(0, 99), margin=st.floats(0.1, 5))
def test_it_bounds_the_number_of_neurons_on_the_wrong_side(seed, margin):
    student, teacher = draw(seed, 4, 9), draw(seed + 100, 4, 9)
    loss = boundary_loss(student, teacher, margin)
    assert (loss >= margin**2 * ~same_side(student, teacher) - 1e-12).all()
    assert same_side(student, teacher)[loss == 0].all()


def test_the_gradient_is_linear_up_to_the_margin_and_then_none():
    student = rows(-2, 0.5, 1, 3, -3, -1, 0, 2).requires_grad_()
    teacher = rows(1, 1, 1, 1, -1, -1, -1, -1)
    (gradient,) = torch.autograd.grad(boundary_loss(student, teacher, 1.0).sum(), student)
    assert gradient.tolist() == [[-6, -1, 0, 0, 0, 0, 2, 6]]


def test_agreement_alone_does_not_score_zero():
    teacher = draw(0, 4, 9)
    assert boundary_loss(teacher, teacher, 1.0).sum() > 0
    assert boundary_loss(teacher, teacher, 1.0).sum() < boundary_loss(-teacher, teacher, 1.0).sum()


def test_an_always_inactive_student_is_half_right_when_balanced():
    teacher = torch.full((2, 10), -1.0)
    teacher[:, 0] = 1.0
    never = torch.full_like(teacher, -5.0)
    assert same_side(never, teacher).float().mean().item() == pytest.approx(0.9)
    assert balanced_agreement(never, teacher).item() == pytest.approx(0.5)


def asked(objective: ActivationBoundaries) -> torch.Tensor:
    student, teacher = network(0, 3), freeze(network(1, 5))
    batch = image_batch(IMAGES)
    loss_fn = objective.open(student, teacher, batch, tiny.rng())
    with (
        FeatureRecorder(student, loss_fn.features.student) as ours,
        FeatureRecorder(teacher, loss_fn.features.teacher) as t,
    ):
        return loss_fn(ours.record(IMAGES), t.record(IMAGES), batch)["activation_boundaries"]


def test_the_deepest_layer_counts_one_and_each_before_it_half_as_much():
    names = ("bn1", "bn2", "bn3")
    objective = ActivationBoundaries(layers=Layers(student=names, teacher=names))
    student, teacher = network(0, 3), freeze(network(1, 5))
    loss_fn = objective.open(student, teacher, image_batch(IMAGES), tiny.rng())
    with FeatureRecorder(student, names) as ours, FeatureRecorder(teacher, names) as theirs:
        mine, taught = ours.record(IMAGES), theirs.record(IMAGES)
    expected = 0.0
    for name, connector, weight in zip(names, loss_fn.adapters, (0.25, 0.5, 1.0), strict=True):
        loss = boundary_loss(connector(mine.features[name]), taught.features[name], 1.0)
        expected += 0.003 * weight * loss.sum().item() / len(IMAGES)
    assert asked(objective).item() == pytest.approx(expected, rel=1e-5)


def test_a_mean_is_the_sum_over_the_number_of_neurons():
    objective = ActivationBoundaries(layers=Layers(student=("bn3",), teacher=("bn3",)))
    teacher = freeze(network(1, 5))
    with FeatureRecorder(teacher, ("bn3",)) as recorder:
        neurons = recorder.record(IMAGES).features["bn3"][0].numel()
    torch.testing.assert_close(
        asked(replace(objective, reduction="mean")) * neurons, asked(objective)
    )


def test_it_aligns_the_states_and_leaves_the_classifier_alone():
    student, teacher, settings = network(0, 3), network(1, 5), tiny.settings(steps=60)
    head = {k: v.clone() for k, v in student.state_dict().items() if k.startswith("linear")}
    buffers = {k: v.clone() for k, v in teacher.named_buffers()}
    lines: list[dict] = []
    distill(
        student,
        teacher,
        tiny.Grey(),
        ActivationBoundaries(),
        settings=settings,
        context=tiny.context(settings),
        rng=tiny.rng(),
        logger=lines.append,
    )
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert head
    assert all(torch.equal(student.state_dict()[k], v) for k, v in head.items())
    assert all(torch.equal(v, buffers[k]) for k, v in teacher.named_buffers())
    assert not any("connector" in name for name in student.state_dict())


def test_the_journal_says_how_many_neurons_of_each_layer_are_on_the_teacher_s_side():
    settings = tiny.settings(steps=60, log_every=20, learning_rate=0.02)
    lines = []
    distill(
        network(0, 3),
        network(1, 5),
        tiny.Grey(),
        Weighted(terms=((2.0, ActivationBoundaries()),)),
        settings=settings,
        context=tiny.context(settings),
        rng=tiny.rng(),
        logger=lines.append,
    )
    agreed = [[line["metrics"][f"boundaries_{i}"] for i in (1, 2, 3)] for line in lines]
    assert all(0 <= share <= 1 for line in agreed for share in line)
    assert sum(agreed[-1]) > sum(agreed[0])
