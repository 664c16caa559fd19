import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.divergence import (
    Divergence,
    divergence_loss,
    mixture,
    relative_entropy,
)
from doublure.objectives.soft_targets import soft_target_loss
from doublure.objectives.weighted import Weighted, open_loss

DEFAULTS = {"form": "reverse", "share": 0.5, "temperature": 1.0}
EXAMPLES = (Divergence(form="jensen-shannon", share=0.3),)

STUDENT = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, 0.5], [2.0, 0.0, -1.0]], dtype=torch.float64)
FORMS = ("forward", "reverse", "jensen-shannon", "skewed-forward", "skewed-reverse")


def draw_logits(seed: int) -> torch.Tensor:
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(form: str, student: torch.Tensor, teacher: torch.Tensor, temperature: float):
    student = student.clone().requires_grad_()
    loss = divergence_loss(student, teacher, form, 0.3, temperature).sum()
    return torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize(
    ("form", "share", "temperature", "value"),
    [
        ("forward", 0.5, 1, 1.4496416),
        ("forward", 0.5, 3, 1.8591015),
        ("forward", 0.5, 4, 1.8813717),
        ("reverse", 0.5, 1, 1.7500878),
        ("reverse", 0.5, 3, 1.9557685),
        ("reverse", 0.5, 4, 1.9516374),
        ("jensen-shannon", 0.5, 1, 0.3279125),
        ("jensen-shannon", 0.1, 1, 0.1236027),
        ("jensen-shannon", 0.9, 1, 0.1388710),
    ],
)
def test_values_by_hand(form, share, temperature, value):
    loss = divergence_loss(STUDENT, TEACHER, form, share, float(temperature)).mean()
    assert loss.item() == pytest.approx(value, abs=5e-8)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_sum_over_classes_of_the_equation(form):
    share, temperature = 0.3, 2.0
    p, q = (torch.softmax(x / temperature, -1) for x in (TEACHER, STUDENT))
    loss = divergence_loss(STUDENT, TEACHER, form, share, temperature)
    for i in range(2):
        forward = reverse = to_p = to_q = 0.0
        for a, b in zip(p[i].tolist(), q[i].tolist(), strict=True):
            m = share * a + (1 - share) * b
            forward, reverse = forward + a * math.log(a / b), reverse + b * math.log(b / a)
            to_p, to_q = to_p + a * math.log(a / m), to_q + b * math.log(b / m)
        mixed = share * to_p + (1 - share) * to_q
        expected = dict(zip(FORMS, (forward, reverse, mixed, to_p, to_q), strict=True))[form]
        assert loss[i].item() == pytest.approx(temperature**2 * expected, rel=1e-12)


def test_forward_is_the_loss_of_soft_targets():
    torch.testing.assert_close(
        divergence_loss(STUDENT, TEACHER, "forward", 0.5, 4.0),
        soft_target_loss(STUDENT, TEACHER, 4.0),
    )


def test_the_gradient_of_reverse_weighs_classes_by_what_the_student_proposes():
    temperature = 2.0
    p, q = (torch.softmax(x / temperature, -1) for x in (TEACHER, STUDENT))
    reward = (q / p).log()
    by_hand = q * (reward - (q * reward).sum(-1, keepdim=True)) * temperature
    torch.testing.assert_close(gradient("reverse", STUDENT, TEACHER, temperature), by_hand)


@given(seed=st.integers(0, 99), form=st.sampled_from(FORMS), shift=st.floats(-30, 30))
def test_agreement_up_to_a_constant_scores_zero_and_pulls_nowhere(seed, form, shift):
    teacher = draw_logits(seed)
    loss = divergence_loss(teacher + shift, teacher, form, 0.3, 2.0)
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-10, rtol=0.0)
    pull = gradient(form, teacher + shift, teacher, 2.0)
    torch.testing.assert_close(pull, torch.zeros_like(pull), atol=1e-10, rtol=0.0)


@given(seed=st.integers(0, 99), form=st.sampled_from(FORMS), share=st.floats(0.01, 0.99))
def test_it_is_never_negative_and_its_gradients_sum_to_zero_over_classes(seed, form, share):
    student, teacher = draw_logits(seed), draw_logits(seed + 100)
    assert (divergence_loss(student, teacher, form, share, 1.0) >= -1e-12).all()
    sums = gradient(form, student, teacher, 1.0).sum(-1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), atol=1e-12, rtol=0.0)


def test_jensen_shannon_divided_by_its_share_becomes_either_relative_entropy():
    forward = divergence_loss(STUDENT, TEACHER, "forward", 0.5, 2.0)
    reverse = divergence_loss(STUDENT, TEACHER, "reverse", 0.5, 2.0)
    small = 1e-7
    towards = divergence_loss(STUDENT, TEACHER, "jensen-shannon", small, 2.0) / small
    away = divergence_loss(STUDENT, TEACHER, "jensen-shannon", 1 - small, 2.0) / small
    torch.testing.assert_close(towards, forward, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(away, reverse, rtol=1e-5, atol=0.0)


def test_skewed_divergences_become_the_plain_ones_and_then_nothing():
    for form, plain, near, far in (
        ("skewed-forward", "forward", 1e-9, 1 - 1e-9),
        ("skewed-reverse", "reverse", 1 - 1e-9, 1e-9),
    ):
        expected = divergence_loss(STUDENT, TEACHER, plain, 0.5, 1.0)
        torch.testing.assert_close(
            divergence_loss(STUDENT, TEACHER, form, near, 1.0), expected, rtol=1e-6, atol=0.0
        )
        assert divergence_loss(STUDENT, TEACHER, form, far, 1.0).max() < 1e-8


def test_jensen_shannon_turns_its_share_round_with_its_arguments():
    torch.testing.assert_close(
        divergence_loss(STUDENT, TEACHER, "jensen-shannon", 0.2, 3.0),
        divergence_loss(TEACHER, STUDENT, "jensen-shannon", 0.8, 3.0),
    )


def test_close_to_agreement_forward_and_reverse_are_one_quadratic_form():
    teacher, step = draw_logits(0), draw_logits(1)
    p = torch.softmax(teacher, -1)
    fisher = ((p * step.square()).sum(-1) - (p * step).sum(-1).square()) / 2
    for form in ("forward", "reverse"):
        ratio = divergence_loss(teacher + 1e-4 * step, teacher, form, 0.5, 1.0) / (1e-8 * fisher)
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-3, rtol=0.0)


def test_the_mixture_is_of_probabilities():
    log_p, log_q = (torch.log_softmax(x, -1) for x in (TEACHER, STUDENT))
    expected = 0.2 * log_p.exp() + 0.8 * log_q.exp()
    torch.testing.assert_close(mixture(log_p, log_q, 0.2).exp(), expected)


def test_what_the_teacher_excludes_costs_nothing_but_in_reverse():
    teacher = TEACHER.clone()
    teacher[:, 2] = -torch.inf
    for form in FORMS:
        loss = divergence_loss(STUDENT, teacher, form, 0.5, 1.0)
        if form == "reverse":
            assert loss.isinf().all()
        else:
            assert loss.isfinite().all()
            assert gradient(form, STUDENT, teacher, 1.0).isfinite().all()
    assert relative_entropy(*torch.log(torch.tensor([[[1.0, 0]], [[0.5, 0.5]]]))).item() == (
        pytest.approx(math.log(2))
    )


def test_a_narrow_student_covers_forward_and_seeks_in_reverse():
    """The teacher is 0.7 N(-2, 0.5^2) + 0.3 N(2, 0.5^2); its moments are -0.8 and 1.90."""
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)

    def bell(mean, log_sd):
        return -(((grid - mean) / log_sd.exp()) ** 2) / 2 - log_sd

    half = torch.tensor(math.log(0.5), dtype=torch.float64)
    teacher = torch.logaddexp(bell(-2.0, half) + math.log(0.7), bell(2.0, half) + math.log(0.3))
    found = {}
    for form in ("forward", "reverse"):
        tries = []
        for start in (-2.0, 0.0, 2.0):
            at = torch.tensor([start, 0.0], dtype=torch.float64, requires_grad=True)
            optimizer = torch.optim.LBFGS([at], max_iter=200, line_search_fn="strong_wolfe")

            def loss(at=at, form=form):
                return divergence_loss(
                    bell(at[0], at[1])[None], teacher[None], form, 0.5, 1.0
                ).sum()

            def closure(optimizer=optimizer, loss=loss):
                optimizer.zero_grad()
                value = loss()
                value.backward()
                return value

            optimizer.step(closure)
            tries.append((loss().item(), at[0].item(), at[1].exp().item()))
        found[form] = min(tries)
    assert found["forward"] == pytest.approx((0.721, -0.8, 1.90), abs=0.05)
    assert found["reverse"] == pytest.approx((math.log(1 / 0.7), -2.0, 0.5), abs=0.05)


def test_the_two_directions_can_be_summed():
    objective = Weighted(
        terms=((0.5, Divergence(form="forward")), (0.5, Divergence(form="reverse")))
    )
    batch = image_batch(torch.zeros(2, 1, 1, 1))
    loss_fn = open_loss(
        objective, torch.nn.Identity(), None, batch, torch.Generator().manual_seed(0)
    )
    terms = loss_fn(Outputs(output=STUDENT.float()), Outputs(output=TEACHER.float()), batch)
    assert sum(terms.values()).item() == pytest.approx((1.4496416 + 1.7500878) / 2, rel=1e-5)


def test_the_limits_are_forms_of_their_own():
    with pytest.raises(ValueError, match="share must be between 0 and 1, got 0"):
        Divergence(form="jensen-shannon", share=0.0)
