import math

import pytest
import torch

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.logit_l1 import LogitL1, logit_l1_loss
from doublure.objectives.soft_targets import soft_target_loss
from tests.tiny import rng

STUDENT = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, 0.5], [2.0, 0.0, -1.0]], dtype=torch.float64)


def test_two_samples_by_hand():
    loss = logit_l1_loss(STUDENT, TEACHER)
    torch.testing.assert_close(loss, torch.tensor([5.5 / 3, 5.5 / 3], dtype=torch.float64))
    assert -math.log1p(loss.mean().item()) == pytest.approx(-1.0414539, abs=1e-7)


def test_a_constant_on_all_logits_counts_unlike_with_soft_targets():
    shifted = TEACHER + 3
    torch.testing.assert_close(logit_l1_loss(shifted, TEACHER), torch.full((2,), 3.0).double())
    assert soft_target_loss(shifted, TEACHER, 1.0).abs().max() < 1e-9


def test_its_gradient_is_the_sign_and_does_not_shrink_with_the_gap():
    direction = torch.randn(8, 10, generator=rng())
    for gap in (1.0, 0.1, 0.01):
        student = (TEACHER[0, 0].float() + gap * direction).requires_grad_()
        loss = logit_l1_loss(student, torch.full_like(direction, 3.0)).mean()
        gradient = torch.autograd.grad(loss, student)[0]
        torch.testing.assert_close(gradient, direction.sign() / 80)


def test_dense_outputs_are_averaged_over_pixels():
    student, teacher = (torch.randn(3, 4, 5, 6, generator=rng(i)) for i in (0, 1))
    loop = torch.stack([(s - t).abs().mean() for s, t in zip(student, teacher, strict=True)])
    torch.testing.assert_close(logit_l1_loss(student, teacher), loop)


def test_the_objective_names_its_term():
    batch = image_batch(torch.zeros(2, 1, 8, 8))
    terms = LogitL1()(Outputs(output=STUDENT), Outputs(output=TEACHER), batch)
    assert terms.keys() == {"logit_l1"}
    assert terms["logit_l1"].item() == pytest.approx(1.8333333, abs=1e-6)
