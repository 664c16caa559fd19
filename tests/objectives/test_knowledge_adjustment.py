from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import Batch, Outputs, image_batch
from doublure.objectives.knowledge_adjustment import (
    KnowledgeAdjustment,
    confidence_hardness,
    cosine_hardness,
    has_wrong_top,
    overlap_hardness,
    sample_temperatures,
    shift_logits,
    smooth_labels,
    tempered_loss,
)
from doublure.objectives.soft_targets import soft_target_loss

DEFAULTS = {
    "temperature": 4.0,
    "adjustment": "shift",
    "smoothing": 0.1,
    "hardness": "cosine",
    "bias": 10.0,
    "exponent": 1.0,
    "scale": "constant",
}
EXAMPLES = (KnowledgeAdjustment(bias=2.0),)

STUDENT = torch.tensor([[4.0, 1, 0], [1, 2, 0], [0, 0.5, 1]], dtype=torch.float64)
TEACHER = torch.tensor([[5.0, 0, 1], [3, 1, 0], [2, 0, 1]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 0])
PLAIN = KnowledgeAdjustment(adjustment="none", hardness="none")


def close(value: torch.Tensor, expected: list, atol: float = 5e-7) -> None:
    torch.testing.assert_close(value, torch.tensor(expected, dtype=value.dtype), atol=atol, rtol=0)


def draw_logits(seed: int) -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(labels: torch.Tensor | None) -> Batch:
    return image_batch(torch.zeros(3, 1, 1, 1), labels=labels)


def loss_of(objective: KnowledgeAdjustment, labels: torch.Tensor | None = LABELS) -> torch.Tensor:
    terms = objective(Outputs(output=STUDENT), Outputs(output=TEACHER), batch(labels))
    return terms["knowledge_adjustment"]


def test_a_mistaken_answer_changes_places_with_its_label():
    logits = torch.tensor([[2.0, 0.5, 3.0, -1.0]], dtype=torch.float64)
    kept = logits.clone()
    shifted = shift_logits(logits, torch.tensor([0]))
    close(shifted, [[3.0, 0.5, 2.0, -1.0]])
    close((shifted / 4).softmax(-1), [[0.372864, 0.199580, 0.290387, 0.137169]])
    assert torch.equal(logits, kept)
    assert torch.equal(shift_logits(logits, torch.tensor([2])), logits)


@given(seed=st.integers(0, 99), temperature=st.floats(0.5, 20))
def test_shifting_only_orders_probabilities_anew_at_every_temperature(seed, temperature):
    logits = draw_logits(seed)
    labels = torch.randint(5, (6,), generator=torch.Generator().manual_seed(seed))
    before = (logits / temperature).softmax(-1)
    after = (shift_logits(logits, labels) / temperature).softmax(-1)
    assert torch.equal(after.argmax(-1), labels)
    torch.testing.assert_close(after.sort(-1).values, before.sort(-1).values)
    torch.testing.assert_close(shift_logits(before, labels), after)


def test_a_tie_is_no_mistake():
    assert not has_wrong_top(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([1])).any()


def test_a_smoothed_label_leaves_an_even_part_to_the_other_classes():
    close(smooth_labels(torch.tensor([0]), 4, 0.1), [[0.9, 1 / 30, 1 / 30, 1 / 30]])
    close(smooth_labels(torch.tensor([2]), 4, 0.0), [[0.0, 0.0, 1.0, 0.0]])


def test_cosine_hardness_and_its_temperatures_by_hand():
    hardness = cosine_hardness(STUDENT, TEACHER, 1.0)
    close(hardness, [0.0486970, 0.2928932, 0.6])
    tau = sample_temperatures(hardness, 4.0, 2.0)
    close(tau, [4.530333, 4.041940, 3.427727])
    assert tau.mean().item() == pytest.approx(4.0, abs=1e-12)


def test_overlap_and_confidence_by_hand():
    hardness = confidence_hardness(STUDENT)
    close(hardness, [1.068103, 1.503215, 1.974410])
    close(sample_temperatures(hardness, 4.0, 2.0), [4.894280, 4.024056, 3.081665])
    hardness = overlap_hardness(STUDENT, TEACHER, 1.0)
    close(hardness, [0.086031, 0.713750, 0.724443])
    close(sample_temperatures(hardness, 4.0, 2.0), [4.844088, 3.588649, 3.567263])


@given(seed=st.integers(0, 99), bias=st.floats(0, 50))
def test_harder_samples_are_never_warmer_and_none_leaves_the_bounds(seed, bias):
    hardness = cosine_hardness(draw_logits(seed), draw_logits(seed + 100), 0.5)
    tau = sample_temperatures(hardness, 4.0, bias)
    assert (tau[hardness.argsort()].diff() <= 1e-9).all()
    assert tau.min() >= 1
    assert tau.max() <= 8


def test_without_both_parts_it_is_soft_targets():
    expected = soft_target_loss(STUDENT.float(), TEACHER.float(), 4.0).mean()
    for objective in (
        PLAIN,
        replace(PLAIN, scale="sample"),
        replace(PLAIN, hardness="cosine", bias=0.0),
    ):
        torch.testing.assert_close(loss_of(objective), expected)
    torch.testing.assert_close(loss_of(replace(PLAIN, scale="none")), expected / 16)


def test_with_both_parts_it_is_the_equation_sample_by_sample():
    objective = KnowledgeAdjustment(bias=2.0)
    centred = [(x - x.mean(-1, keepdim=True)).float() for x in (STUDENT, TEACHER)]
    tau = sample_temperatures(cosine_hardness(*centred, 1.0), 4.0, 2.0)
    taught = TEACHER.clone()
    taught[1] = torch.tensor([0.0, 1, 3])  # the second is mistaken: 0 for 2
    total = 0.0
    for ours, theirs, t in zip(STUDENT, taught, tau.tolist(), strict=True):
        p, q = (theirs / t).softmax(-1), (ours / t).softmax(-1)
        total += 16 * (p * (p / q).log()).sum().item()
    assert loss_of(objective).item() == pytest.approx(total / 3, rel=1e-5)


def test_only_mistaken_answers_are_smoothed_or_dropped():
    smooth = loss_of(replace(PLAIN, adjustment="smooth"))
    drop = loss_of(replace(PLAIN, adjustment="drop"))
    each = soft_target_loss(STUDENT.float(), TEACHER.float(), 4.0)
    even = torch.tensor([[0.05, 0.05, 0.9]])
    instead = 16 * tempered_loss(STUDENT[1:2].float(), even, torch.tensor([4.0]))
    torch.testing.assert_close(drop, (each[0] + each[2]) / 3)
    torch.testing.assert_close(smooth, (each[0] + instead[0] + each[2]) / 3)


def test_an_adjusted_answer_that_is_met_scores_zero():
    met = Outputs(output=shift_logits(TEACHER, LABELS))
    terms = KnowledgeAdjustment()(met, Outputs(output=TEACHER), batch(LABELS))
    assert terms["knowledge_adjustment"].item() == pytest.approx(0.0, abs=1e-6)


def test_no_gradient_goes_through_the_temperatures():
    objective = replace(PLAIN, hardness="confidence", bias=2.0)
    student = STUDENT.float().requires_grad_()
    term = objective(Outputs(output=student), Outputs(output=TEACHER), batch(None))
    ours = torch.autograd.grad(term["knowledge_adjustment"], student)[0]
    tau = sample_temperatures(confidence_hardness(student), 4.0, 2.0).detach()
    target = (TEACHER.float() / tau[:, None]).softmax(-1)
    theirs = torch.autograd.grad(16 * tempered_loss(student, target, tau).mean(), student)[0]
    torch.testing.assert_close(ours, theirs)


def test_the_constant_scale_lets_hard_samples_pull_more_and_the_sample_scale_does_not():
    """Sums of the gradient's sizes for T_x of 2, 4 and 6 at one pair of logits."""
    student, teacher = torch.tensor([[1.0, 2, 0, 0]]), torch.tensor([[5.0, 1, 0, -1]])
    norms = []
    for tau in (2.0, 4.0, 6.0):
        ours = student.clone().requires_grad_()
        loss = tempered_loss(ours, (teacher / tau).softmax(-1), torch.tensor([tau]))
        norms.append(torch.autograd.grad(loss.sum(), ours)[0].abs().sum().item())
    assert [tau**2 * n for tau, n in zip((2, 4, 6), norms, strict=True)] == pytest.approx(
        [2.12, 2.18, 2.08], abs=0.01
    )
    assert [16 * n for n in norms] == pytest.approx([8.48, 2.18, 0.93], abs=0.01)


def test_of_label_probabilities_the_largest_counts():
    soft = torch.nn.functional.one_hot(LABELS, 3).float() * 0.6 + 0.1
    torch.testing.assert_close(loss_of(PLAIN, soft), loss_of(PLAIN))
    torch.testing.assert_close(
        loss_of(KnowledgeAdjustment(), soft), loss_of(KnowledgeAdjustment(), LABELS)
    )


def test_the_teachers_own_top_1_is_never_mistaken():
    objective = KnowledgeAdjustment(hardness="none", of="teacher")
    assert loss_of(objective, None) == loss_of(PLAIN)


def test_without_labels_it_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"has none; .*--labels.*adjustment='none'"):
        loss_of(KnowledgeAdjustment(), None)
    assert loss_of(KnowledgeAdjustment(adjustment="none"), None).isfinite()
