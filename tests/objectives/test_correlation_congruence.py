import math

import pytest
import torch

from doublure.objectives.correlation_congruence import (
    CorrelationCongruence,
    congruence_loss,
    taylor_kernel,
)
from tests.objectives.features import learns, numbers

DEFAULTS = {"weight": 100.0, "gamma": 0.4, "order": 2, "find": "features"}


def test_of_high_order_it_is_the_gaussian_kernel():
    points = numbers(5, 3)
    units = torch.nn.functional.normalize(points)
    gaussian = (-0.4 * torch.cdist(units, units).square()).exp()
    torch.testing.assert_close(taylor_kernel(points, 0.4, 20), gaussian)


def test_two_orthogonal_samples_by_hand():
    # x . y = 0 between them and 1 with themselves: 1 + 0.8 + 0.32, times exp(-0.8)
    kernel = taylor_kernel(torch.eye(2, dtype=torch.float64), 0.4, 2)
    own, other = math.exp(-0.8) * 2.12, math.exp(-0.8)
    expected = torch.tensor([[own, other], [other, own]], dtype=torch.float64)
    torch.testing.assert_close(kernel, expected)
    one = torch.ones(2, 2, dtype=torch.float64)
    loss = congruence_loss(torch.eye(2, dtype=torch.float64), one, 0.4, 2)
    assert loss.item() == pytest.approx(2 * (own - other) ** 2 / 4)


def test_turned_and_scaled_samples_agree():
    points, turn = numbers(5, 4), torch.linalg.qr(numbers(4, 4, seed=2))[0]
    assert congruence_loss(3 * points @ turn, points, 0.4, 2).item() == pytest.approx(0, abs=1e-20)


def test_the_student_learns_the_kernels():
    first, last = learns(CorrelationCongruence(), "resnet8", "vgg8")
    assert last < 0.9 * first
