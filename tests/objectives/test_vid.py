import math

import pytest
import torch

from doublure.objectives.vid import VID, information_loss
from tests.objectives.features import built, learns, numbers, opened

DEFAULTS = {"weight": 1.0, "find": "stages"}


def test_it_is_the_gaussian_likelihood_less_a_constant():
    mean, teacher = numbers(2, 3, 2, 2), numbers(2, 3, 2, 2, seed=1)
    variance = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    normal = torch.distributions.Normal(mean, variance.sqrt()[:, None, None])
    expected = -normal.log_prob(teacher).flatten(1).mean(1) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(information_loss(mean, variance, teacher), expected)


def test_the_best_variance_is_the_mean_squared_error():
    mean, teacher = numbers(8, 1, 4, 4), numbers(8, 1, 4, 4, seed=1)
    variance = (mean - teacher).square().mean().view(1).requires_grad_()
    information_loss(mean, variance, teacher).mean().backward()
    assert variance.grad.item() == pytest.approx(0, abs=1e-12)


def test_the_variance_starts_at_5_and_is_trained():
    loss = opened(VID(), built("resnet8"), built("vgg8"))
    names = dict(loss.named_parameters())
    assert loss.adapters[0].variance.detach().unique().tolist() == pytest.approx([5.0])
    assert "adapters.0.raw_variance" in names


def test_the_student_learns_what_the_teacher_knows():
    first, last = learns(VID(), "resnet8", "vgg8")
    assert last < first
