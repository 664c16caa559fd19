import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.logit_standardisation import LogitStandardisation, standardise
from doublure.objectives.soft_targets import soft_target_loss
from tests.objectives.features import numbers

DEFAULTS = {"weight": 9.0, "temperature": 2.0}

IMAGES = torch.zeros(4, 1, 1, 1)


def term(student, teacher):
    (value,) = LogitStandardisation()(
        Outputs(output=student), Outputs(output=teacher), image_batch(IMAGES)
    ).values()
    return value.item()


@given(scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_scale_and_shift_of_the_logits_do_not_matter(scale, shift):
    logits = numbers(4, 6)
    assert term(scale * logits + shift, logits) == pytest.approx(0, abs=1e-4)


def test_three_logits_by_hand():
    z = standardise(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(
        z, torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_it_is_soft_targets_of_standardised_logits():
    one, other = numbers(4, 6).float(), numbers(4, 6, seed=1).float()
    expected = 9 * soft_target_loss(standardise(one), standardise(other), 2.0).mean().item()
    assert term(one, other) == pytest.approx(expected)
    assert term(one, other) != pytest.approx(9 * soft_target_loss(one, other, 2.0).mean().item())


def test_equal_logits_leave_the_gradient_finite():
    student = torch.zeros(4, 6, requires_grad=True)
    LogitStandardisation()(
        Outputs(output=student), Outputs(output=numbers(4, 6)), image_batch(IMAGES)
    )["standardised_targets"].backward()
    assert student.grad.isfinite().all()
