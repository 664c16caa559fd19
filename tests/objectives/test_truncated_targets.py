from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.soft_targets import soft_target_loss
from doublure.objectives.truncated_targets import TruncatedTargets, top_classes, truncated_loss

DEFAULTS = {"num_kept": 5, "temperature": 1.0, "truncation": "renormalised"}
EXAMPLES = (TruncatedTargets(num_kept=2, truncation="tail"),)

STUDENT = torch.tensor([[2.0, 1, 0, -1, 0.5]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 2.5, 0, -2, 1]], dtype=torch.float64)
TRUNCATIONS, DIRECTIONS = ("renormalised", "partial", "tail"), ("forward", "reverse")


def draw_logits(seed: int) -> torch.Tensor:
    return torch.randn(6, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("num_kept", "truncation", "direction", "value"),
    [
        (2, "renormalised", "forward", 0.0279550),
        (2, "partial", "forward", 0.1575058),
        (2, "renormalised", "reverse", 0.0263446),
        (2, "partial", "reverse", -0.0939703),
        (2, "tail", "forward", 0.0756177),
        (3, "renormalised", "forward", 0.0446678),
        (3, "partial", "forward", 0.1189418),
        (3, "renormalised", "reverse", 0.0450984),
        (3, "partial", "reverse", -0.0295921),
        (3, "tail", "forward", 0.0812628),
        (5, "renormalised", "forward", 0.0833728),
        (5, "renormalised", "reverse", 0.1039649),
        (5, "partial", "reverse", 0.1039649),
        (5, "tail", "forward", 0.0833728),
    ],
)
def test_values_by_hand(num_kept, truncation, direction, value):
    loss = truncated_loss(STUDENT, TEACHER, num_kept, 1.0, truncation, direction)
    assert loss.item() == pytest.approx(value, abs=5e-8)


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_with_all_classes_it_is_soft_targets(truncation):
    student, teacher = draw_logits(0), draw_logits(1)
    loss = truncated_loss(student, teacher, 7, 4.0, truncation, "forward")
    torch.testing.assert_close(loss, soft_target_loss(student, teacher, 4.0))


def test_the_gradient_is_zero_outside_of_the_classes_kept_and_known_inside():
    student, teacher, temperature = draw_logits(0).requires_grad_(), draw_logits(1), 3.0
    loss = truncated_loss(student, teacher, 3, temperature, "renormalised", "forward").sum()
    (gradient,) = torch.autograd.grad(loss, student)
    kept = top_classes(teacher, 3)
    p, q = ((x.detach().gather(1, kept) / temperature).softmax(-1) for x in (teacher, student))
    expected = torch.zeros_like(gradient).scatter(1, kept, temperature * (q - p))
    torch.testing.assert_close(gradient, expected)


@given(seed=st.integers(0, 99), shift=st.floats(-20, 20), num_kept=st.integers(2, 7))
def test_agreement_up_to_a_constant_scores_zero(seed, shift, num_kept):
    teacher = draw_logits(seed)
    for truncation, direction in product(TRUNCATIONS, DIRECTIONS):
        loss = truncated_loss(teacher + shift, teacher, num_kept, 2.0, truncation, direction)
        torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-10, rtol=0.0)


@given(seed=st.integers(0, 99))
def test_the_tail_is_a_divergence_that_grows_with_the_classes_up_to_that_of_all(seed):
    student, teacher = draw_logits(seed), draw_logits(seed + 100)
    losses = [truncated_loss(student, teacher, k, 1.0, "tail", "forward") for k in range(1, 8)]
    assert (torch.stack(losses).diff(dim=0) >= -1e-12).all()
    assert (losses[0] >= 0).all()


@given(seed=st.integers(0, 99), truncation=st.sampled_from(TRUNCATIONS))
def test_the_order_of_the_classes_does_not_matter(seed, truncation):
    student, teacher = draw_logits(seed), draw_logits(seed + 100)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        truncated_loss(student[:, order], teacher[:, order], 3, 2.0, truncation, "reverse"),
        truncated_loss(student, teacher, 3, 2.0, truncation, "reverse"),
    )


def test_of_equal_logits_the_first_are_kept():
    assert top_classes(torch.tensor([[1.0, 2, 2, 2, 0]]), 2).tolist() == [[1, 2]]


def test_one_class_says_nothing_and_is_refused():
    one = truncated_loss(STUDENT, TEACHER, 1, 1.0, "renormalised", "forward")
    assert one.item() == 0
    with pytest.raises(ValueError, match=r"num_kept must be at least 2.*use truncation='tail'"):
        TruncatedTargets(num_kept=1)


def test_fewer_classes_than_are_to_be_kept_are_all_kept():
    few = TEACHER[:, :3]
    terms = TruncatedTargets()(
        Outputs(output=STUDENT[:, :3]), Outputs(output=few), image_batch(torch.zeros(1, 1, 1, 1))
    )
    expected = soft_target_loss(STUDENT[:, :3].float(), few.float(), 1.0).mean()
    torch.testing.assert_close(terms["truncated_targets"], expected)
