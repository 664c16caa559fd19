import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from doublure.core.protocols import OptimisedSource
from doublure.nets.generators import GeneratorPlan
from doublure.nets.network import freeze
from doublure.sources.collapse import CollapseCheck, CollapseError
from doublure.sources.rdskd import (
    RDSKD,
    RDSKDStream,
    authenticity_loss,
    class_diversity_loss,
    exponential_penalty,
    sample_diversity_loss,
)
from tests import tiny
from tests.tiny import context, rng

EXAMPLES = (
    RDSKD(
        generator=tiny.GENERATOR,
        generator_steps=3,
        generator_batch=8,
        collapse=CollapseCheck(every=0),
    ),
)

LOGITS = torch.tensor([[3.0, 1.0, 0.5], [2.0, 0.0, -1.0]])
NEVER = CollapseCheck(every=0)


def settings(**changes) -> RDSKD:
    small = {
        "generator": GeneratorPlan(latent=8, width=8),
        "generator_steps": 4,
        "draws_per_step": 1,
        "generator_batch": 32,
        "collapse": NEVER,
    }
    return RDSKD(**(small | changes))


def opened(rdskd: RDSKD, teacher: nn.Module | None = None, seed: int = 0) -> RDSKDStream:
    where = context(batch_size=64, steps=1000)
    return rdskd.open(where, freeze(teacher or tiny.network(0)), rng(seed))


def test_the_losses_of_two_answers_by_hand():
    assert authenticity_loss(LOGITS).mean().item() == pytest.approx(0.1832901, abs=1e-6)
    assert class_diversity_loss(LOGITS).item() == pytest.approx(-0.5575223, abs=1e-6)
    zero = torch.zeros(())
    both = exponential_penalty(authenticity_loss(LOGITS).mean(), zero, 1.0)
    both = both + exponential_penalty(class_diversity_loss(LOGITS), zero, 1.0)
    assert both.item() == pytest.approx(1.7737889, abs=1e-6)
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert sample_diversity_loss(images, LOGITS.softmax(1), "halves").item() == pytest.approx(
        0.0170017, abs=1e-6
    )


@given(seed=st.integers(0, 50), classes=st.integers(2, 9))
def test_class_diversity_lies_between_uniform_and_one_class(seed, classes):
    logits = 5 * torch.randn(16, classes, generator=rng(seed), dtype=torch.float64)
    loss = class_diversity_loss(logits).item()
    assert -math.log(classes) <= loss <= 0
    even = 1e3 * torch.eye(classes, dtype=torch.float64)
    assert class_diversity_loss(even).item() == pytest.approx(-math.log(classes))
    assert class_diversity_loss(even[:1]).item() == pytest.approx(0, abs=1e-9)


def test_authenticity_is_zero_of_the_sure_and_log_k_of_the_undecided():
    assert authenticity_loss(torch.tensor([[1e3, 0.0, 0.0]])).item() == 0
    assert authenticity_loss(torch.zeros(1, 7)).item() == pytest.approx(math.log(7))


def test_at_its_reference_the_exponential_has_the_gradient_of_the_loss():
    logits = LOGITS.clone().requires_grad_()
    loss = class_diversity_loss(logits)
    plain = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    at, above = (
        torch.autograd.grad(
            exponential_penalty(loss, loss.detach() - rise, 1.0), logits, retain_graph=True
        )[0]
        for rise in (0.0, math.log(2))
    )
    torch.testing.assert_close(at, plain, rtol=0, atol=0)
    torch.testing.assert_close(above, 2 * plain)


def test_exponents_are_clipped():
    loss, zero = torch.tensor(80.0), torch.zeros(())
    assert exponential_penalty(loss, zero, 1.0).item() == pytest.approx(math.exp(5))
    assert exponential_penalty(-loss, zero, 1.0).item() == pytest.approx(math.exp(-5))


@pytest.mark.parametrize(
    ("loss", "weight", "slope"), [(80.0, 1.0, 5), (-80.0, 1.0, -5), (2.3, 10, 5)]
)
def test_far_from_its_reference_a_loss_pulls_by_a_bounded_weight_but_does_pull(loss, weight, slope):
    far = torch.tensor(loss, requires_grad=True)
    penalty = exponential_penalty(far, torch.zeros(()), weight)
    assert torch.autograd.grad(penalty, far)[0].item() == pytest.approx(weight * math.exp(slope))


@pytest.mark.parametrize("pairing", ["halves", "class"])
def test_sample_diversity_minds_contrast_but_not_brightness(pairing):
    images = torch.rand(8, 1, 4, 4, generator=rng())
    answers = torch.randn(8, 2, generator=rng(1)).softmax(1)
    loss = sample_diversity_loss(images, answers, pairing)
    torch.testing.assert_close(sample_diversity_loss(images + 3, answers, pairing), loss)
    torch.testing.assert_close(sample_diversity_loss(2 * images, answers, pairing), loss / 2)
    same = answers[:1].expand(8, -1)
    assert sample_diversity_loss(images, same, pairing) == 0


@pytest.mark.parametrize("pairing", ["halves", "class"])
def test_equal_images_give_a_finite_loss_and_no_gradient(pairing):
    images = torch.zeros(8, 1, 4, 4, requires_grad=True)
    answers = torch.randn(8, 2, generator=rng(1)).softmax(1)
    loss = sample_diversity_loss(images, answers, pairing)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, images)[0].abs().max() == 0


def test_pairs_of_a_class_are_averaged_one_by_one():
    images = torch.tensor([0.0, 0.0, 1.0, 2.0]).view(4, 1, 1, 1)
    answers = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.7, 0.3]])
    # 0 pairs with 3 over a distance of 2, 1 with 2 over a distance of 1
    expected = (0.2 * math.sqrt(2) / 2 + 0.1 * math.sqrt(2) / 1) / 2
    assert sample_diversity_loss(images, answers, "class").item() == pytest.approx(expected)
    alone = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]])
    assert sample_diversity_loss(images, alone, "class") == 0


def test_references_are_renewed_at_the_second_step_of_an_epoch():
    old = {"authenticity": torch.tensor(0.0), "class_diversity": torch.tensor(0.0)}
    terms = {"authenticity": torch.tensor(1.0), "class_diversity": torch.tensor(-1.0)}
    renewed = [
        settings(epoch=3).update_references(s, terms, old)["authenticity"].item() for s in range(6)
    ]
    assert renewed == [0, 1, 0, 0, 1, 0]


def test_the_other_references_by_hand():
    old = {"authenticity": torch.tensor(0.5), "class_diversity": torch.tensor(-2.0)}
    terms = {"authenticity": torch.tensor(1.0), "class_diversity": torch.tensor(-1.0)}

    def after(reference, step):
        made = settings(reference=reference).update_references(step, terms, old)
        return [made[name].item() for name in ("authenticity", "class_diversity")]

    assert after("previous", 5) == [1.0, -1.0]
    assert after("least", 5) == [0.5, -2.0]
    assert after("least", 0) == after("average", 0) == [1.0, -1.0]
    assert after("average", 5) == pytest.approx([0.55, -1.9])


def test_a_weight_of_zero_leaves_a_term_out_and_the_sum_is_the_sum():
    terms = dict.fromkeys(("authenticity", "class_diversity", "sample_diversity"), torch.ones(()))
    zero = {"authenticity": torch.zeros(()), "class_diversity": torch.zeros(())}
    assert settings().loss(terms, zero).item() == pytest.approx(2 * math.e + 1)
    without = settings(class_diversity=0.0, sample_diversity=0.0)
    assert without.loss(terms, zero).item() == pytest.approx(math.e)
    plain = settings(combination="sum", class_diversity=10.0)
    assert plain.loss(terms, zero).item() == pytest.approx(12)


class Bright(nn.Module):
    """Three classes by the mean grey of the image's three parts."""

    def forward(self, images):
        parts = images[:, 0, :6].unflatten(1, (3, 2)).mean((2, 3))
        return 12 * parts


def classes_of(stream: RDSKDStream) -> torch.Tensor:
    images = stream.draw(0, None).images
    return Bright()(images).argmax(1).bincount(minlength=3) / len(images)


def test_without_class_diversity_the_generator_loses_classes():
    long = settings(generator_steps=80, learning_rate=1e-2)
    whole = opened(long, Bright())
    alone = opened(
        settings(generator_steps=80, learning_rate=1e-2, class_diversity=0.0, sample_diversity=0.0),
        Bright(),
    )
    assert classes_of(whole).amin() > 0.15
    assert classes_of(alone).amin() < 0.02


def test_the_generator_is_trained_once_and_frozen_from_then_on():
    stream = opened(settings())
    start = stream.state_dict()["generator"]
    first = stream.draw(0, None)
    trained = stream.state_dict()["generator"]
    assert any(not torch.equal(start[name], trained[name]) for name in start)
    assert first.metrics["teacher_passes"] == 2 * 4 * 32 / 64
    second = stream.draw(1, None)
    torch.testing.assert_close(stream.state_dict()["generator"], trained, rtol=0, atol=0)
    assert second.metrics["teacher_passes"] == 0
    assert not torch.equal(first.images, second.images)
    assert {"authenticity", "class_diversity", "sample_diversity"} <= second.metrics.keys()


def test_the_images_of_a_trained_generator_are_like_those_it_was_trained_with():
    stream = opened(settings(generator_steps=60))
    images = stream.draw(0, None).images
    generator = stream._generator.train()
    batch = generator(generator.draw_codes(64, rng(7)))
    assert images.mean().item() == pytest.approx(batch.mean().item(), abs=0.05)
    assert images.std().item() == pytest.approx(batch.std().item(), abs=0.05)


@pytest.mark.parametrize(("draws", "steps"), [(10, 3), (40, 1), (1, 8)])
def test_a_short_run_trains_its_generator_less(draws, steps):
    few = settings(draws_per_step=draws, generator_steps=8).open(
        context(batch_size=32, steps=30), freeze(tiny.network(0)), rng()
    )
    assert few.draw(0, None).metrics["teacher_passes"] == 2 * steps * 32 / 32


def test_the_published_run_trains_its_generator_in_full():
    student_steps = 1000 * 120
    assert student_steps // RDSKD().draws_per_step == RDSKD().generator_steps


def test_a_draft_trains_it_for_one_step():
    draft = settings(generator_steps=100).open(
        context(batch_size=2, draft=True), freeze(tiny.network(0)), rng()
    )
    assert draft.draw(0, None).metrics["teacher_passes"] == 2 * 1 * 32 / 2


class Constant(nn.Module):
    """Calls everything the first class, whatever it sees."""

    def forward(self, images):
        return torch.tensor([9.0, 0.0, 0.0]) + 0 * images.mean((1, 2, 3))[:, None]


def test_a_generator_in_one_class_is_trained_afresh_once_and_then_refused():
    stream = opened(settings(collapse=CollapseCheck(count=16)), Constant())
    with (
        pytest.warns(RuntimeWarning, match="assigns 100% of its new images to one class"),
        pytest.raises(CollapseError, match="also after it was re-initialised"),
    ):
        stream.draw(0, None)


def test_it_cannot_be_held_out_and_needs_a_teacher():
    assert isinstance(RDSKD(), OptimisedSource)
    with pytest.raises(ValueError, match="but there is none; use a source that needs none"):
        RDSKD().open(context(), None, rng())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator_steps": 0}, "generator_steps must be positive, got 0"),
        ({"generator_batch": 2}, "generator_batch must be at least 4, got 2"),
        ({"authenticity": -1.0}, "authenticity must not be negative, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        settings(**change)
