import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import image_batch
from doublure.nets.convnet import ConvNet
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import freeze
from doublure.objectives.pairing import STAGES
from doublure.objectives.similarity_preserving import (
    SimilarityPreserving,
    similarities,
    similarity_preserving_loss,
)
from tests import tiny

DEFAULTS = {"weight": 3000.0, "batch_size": 128, "find": "last"}

STUDENT = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 2]], dtype=torch.float64)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_three_samples_by_hand():
    half = math.sqrt(0.5)
    rows = [[half, 0, half], [0, half, half], [1 / 6**0.5, 1 / 6**0.5, 2 / 6**0.5]]
    torch.testing.assert_close(similarities(STUDENT), torch.tensor(rows, dtype=torch.float64))
    rows = [[half, half, 0], [1 / 5**0.5, 2 / 5**0.5, 0], [0, 0, 1]]
    torch.testing.assert_close(similarities(TEACHER), torch.tensor(rows, dtype=torch.float64))
    assert similarity_preserving_loss(STUDENT, TEACHER).item() == pytest.approx(0.2335662, abs=5e-8)


@pytest.mark.parametrize(("b", "value"), [(2, 0.2928932), (8, 0.1616117), (32, 0.0514515)])
def test_samples_all_different_against_samples_all_alike(b, value):
    loss = similarity_preserving_loss(torch.eye(b), torch.ones(b, 3)).item()
    assert loss == pytest.approx(2 / b * (1 - b**-0.5), rel=1e-5)
    assert loss == pytest.approx(value, abs=5e-7)


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 10))
def test_turning_and_scaling_the_features_changes_nothing(seed, scale):
    teacher = draw(seed, 5, 4)
    turn = torch.linalg.qr(draw(seed + 100, 4, 4)).Q
    assert similarity_preserving_loss(scale * teacher @ turn, teacher).item() < 1e-20
    torch.testing.assert_close(
        similarity_preserving_loss(
            3 * STUDENT @ torch.tensor([[0.0, 1], [-1, 0]]).double(), TEACHER
        ),
        similarity_preserving_loss(STUDENT, TEACHER),
    )


def test_scaling_one_sample_does_change_it():
    one = STUDENT * torch.tensor([[5.0], [1], [1]])
    assert similarity_preserving_loss(one, TEACHER).item() == pytest.approx(0.2908935, abs=5e-8)


@given(seed=st.integers(0, 99), b=st.integers(2, 12))
def test_of_features_without_negative_values_it_is_at_most_two_over_the_batch(seed, b):
    student, teacher = draw(seed, b, 3, 2, 2).relu(), draw(seed + 100, b, 7).relu()
    assert 0 <= similarity_preserving_loss(student, teacher).item() <= 2 / b + 1e-12


def test_a_dead_batch_is_finite_and_has_finite_gradients():
    student = torch.zeros(4, 3, requires_grad=True)
    loss = similarity_preserving_loss(student, torch.ones(4, 2))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_the_gradient_is_that_of_the_equation():
    student = draw(0, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: similarity_preserving_loss(x, TEACHER.new_ones(4, 2)), student
    )


def asked(objective: SimilarityPreserving, count: int = 6) -> torch.Tensor:
    images = torch.rand(count, 1, 8, 8, generator=tiny.rng())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = ConvNet(width=3, classes=3, channels=1).eval()
        teacher = freeze(ConvNet(width=5, classes=3, channels=1))
    batch = image_batch(images)
    loss_fn = objective.open(student, teacher, batch, tiny.rng())
    with (
        FeatureRecorder(student, loss_fn.features.student) as ours,
        FeatureRecorder(teacher, loss_fn.features.teacher) as t,
    ):
        return loss_fn(ours.record(images), t.record(images), batch)["similarity"]


def test_the_weight_is_that_of_the_batch_it_was_stated_for():
    plain = SimilarityPreserving(weight=1.0, batch_size=6)
    torch.testing.assert_close(asked(replace(plain, batch_size=3)), 2 * asked(plain))
    torch.testing.assert_close(asked(replace(plain, weight=5.0)), 5 * asked(plain))


def test_layers_are_summed():
    objective = SimilarityPreserving(layers=STAGES)
    names = ("bn1", "bn2", "bn3")
    apart = [
        asked(replace(objective, layers=replace(STAGES, student=(name,), teacher=(name,))))
        for name in names
    ]
    together = asked(replace(objective, layers=replace(STAGES, student=names, teacher=names)))
    torch.testing.assert_close(together, torch.stack(apart).sum())
