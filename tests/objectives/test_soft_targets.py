import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.soft_targets import SoftTargets, soft_target_loss

DEFAULTS = {"temperature": 20.0}
EXAMPLES = (SoftTargets(temperature=4.0),)

STUDENT = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, 0.5], [2.0, 0.0, -1.0]], dtype=torch.float64)


def draw_logits(seed: int) -> torch.Tensor:
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_classes_by_hand():
    teacher = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)  # p = (3/4, 1/4)
    loss = soft_target_loss(torch.zeros_like(teacher), teacher, 1.0)  # q = (1/2, 1/2)
    assert loss.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-12)


@pytest.mark.parametrize(
    ("temperature", "value"),
    [(1, 1.4496416), (2, 1.7877787), (4, 1.8813717), (20, 1.8944317), (1000, 1.8890325)],
)
def test_it_sums_over_classes_and_averages_over_the_batch(temperature, value):
    loss = soft_target_loss(STUDENT, TEACHER, float(temperature)).mean()
    assert loss.item() == pytest.approx(value, abs=5e-8)


def test_the_gradient_is_t_times_the_difference_of_the_probabilities():
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(soft_target_loss(student, TEACHER, 4.0).sum(), student)
    by_hand = 4.0 * (torch.softmax(STUDENT / 4, -1) - torch.softmax(TEACHER / 4, -1))
    torch.testing.assert_close(gradient, by_hand)
    expected = torch.tensor([-0.8504941, 0.1732298, 0.6772643], dtype=torch.float64)
    torch.testing.assert_close(gradient[0], expected, atol=5e-8, rtol=0.0)


@given(seed=st.integers(0, 99), shift=st.floats(-50, 50), temperature=st.floats(0.5, 50))
def test_agreement_up_to_a_constant_scores_zero(seed, shift, temperature):
    teacher = draw_logits(seed)
    loss = soft_target_loss(teacher + shift, teacher, temperature)
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-9, rtol=0.0)


def test_at_high_temperature_it_is_logit_matching():  # eq. 4, for zero-mean logits
    student, teacher = (x - x.mean(-1, keepdim=True) for x in (draw_logits(0), draw_logits(1)))
    loss = soft_target_loss(student, teacher, temperature=1e4)
    torch.testing.assert_close(loss, (student - teacher).square().mean(-1) / 2, rtol=1e-3, atol=0.0)


def test_half_precision_answers_are_compared_in_float32():
    student, teacher = (Outputs(output=x.to(torch.bfloat16)) for x in (STUDENT, TEACHER))
    (term,) = SoftTargets()(student, teacher, image_batch(torch.zeros(2, 1, 1, 1))).values()
    assert term.dtype == torch.float32


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        SoftTargets(temperature=0)
