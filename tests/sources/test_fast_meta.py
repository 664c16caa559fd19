import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from doublure.core.protocols import OptimisedSource
from doublure.core.seeding import child
from doublure.nets.batchnorm_statistics import (
    MomentsRecorder,
    feature_statistics_loss,
    stored_statistics,
)
from doublure.nets.generators import GeneratorPlan
from doublure.nets.network import freeze
from doublure.sources import fast_meta
from doublure.sources.collapse import CollapseCheck, CollapseError
from doublure.sources.fast_meta import (
    PUBLISHED,
    FastMeta,
    FastMetaStream,
    masked_adversarial_loss,
)
from tests import tiny
from tests.tiny import context, rng

EXAMPLES = (
    FastMeta(
        generator=tiny.GENERATOR,
        inner_steps=2,
        warm_up=1,
        renew_every=2,
        collapse=CollapseCheck(every=0),
    ),
)

NEVER = CollapseCheck(every=0)


def settings(**changes) -> FastMeta:
    small = {
        "generator": GeneratorPlan(head="sigmoid", latent=8, width=4),
        "inner_steps": 3,
        "warm_up": 0,
        "shift": 0,
        "flip": 0.0,
        "collapse": NEVER,
    }
    return FastMeta(**(small | changes))


def opened(fast: FastMeta, teacher: nn.Module | None = None, **changes) -> FastMetaStream:
    where = context(**({"batch_size": 16, "steps": 100} | changes))
    return fast.open(where, freeze(teacher or tiny.network(0)), rng())


def weights(stream: FastMetaStream) -> dict[str, torch.Tensor]:
    return stream.state_dict()["generator"]


def moved(before, after) -> list[str]:
    return [name for name in before if not torch.equal(before[name], after[name])]


def meta_gradients(stream: FastMetaStream) -> list[torch.Tensor]:
    """What the generator's Adam saw in its first step: half of it is the first average."""
    states = stream.state_dict()["optimizer"]["state"]
    return [2 * states[i]["exp_avg"] for i in range(len(states))]


def test_the_adversarial_term_counts_only_where_both_name_the_same_class():
    teacher = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    loss = masked_adversarial_loss(student, teacher)
    p, q = (F.softmax(x[0].double(), 0) for x in (teacher, student.detach()))
    expected = -float((p * (p / q).log()).sum())
    assert loss.tolist() == pytest.approx([expected, 0.0, 0.0], abs=1e-6)
    gradient = torch.autograd.grad(loss.sum(), student)[0]
    assert gradient[1].abs().max() == 0
    assert gradient[0].abs().max() > 0


def recorded(monkeypatch) -> list[list[torch.Tensor]]:
    """Record the gradients of every inner step."""
    seen: list[list[torch.Tensor]] = []
    grad = torch.autograd.grad

    def recording(*arguments, **named):
        made = grad(*arguments, **named)
        seen.append([value.clone() for value in made])
        return made

    monkeypatch.setattr(fast_meta.torch.autograd, "grad", recording)
    return seen


def test_the_generator_learns_from_the_sum_of_the_inner_gradients(monkeypatch):
    stream, seen = opened(settings()), recorded(monkeypatch)
    stream.draw(0, None)
    assert len(seen) == 3
    summed = [torch.stack(parts).sum(0) for parts in zip(*seen, strict=True)][:-1]
    torch.testing.assert_close(meta_gradients(stream), summed, rtol=1e-5, atol=1e-7)


def test_with_one_inner_step_that_is_the_gradient_at_the_generator_itself():
    stream = opened(settings(inner_steps=1, momentum=0.0))
    generator = copy.deepcopy(stream._generator)
    codes = stream._codes(child(child(child(rng(), "train", 0), 0), "codes"))
    stream.draw(0, None)
    loss = stream._batch_loss(generator(codes()), codes.labels, None, rng())
    gradients = torch.autograd.grad(loss, list(generator.parameters()))
    ours = meta_gradients(stream)
    torch.testing.assert_close(ours, list(gradients), rtol=1e-4, atol=1e-6)


def test_during_the_inner_steps_the_generator_stands_still():
    teacher = freeze(tiny.network(0))
    stream = settings().open(context(batch_size=16), teacher, rng())
    start, seen = weights(stream), []
    teacher.register_forward_hook(lambda *_: seen.append(not moved(start, weights(stream))))
    stream.draw(0, None)
    assert seen == [True] * 3
    assert moved(start, weights(stream))


def test_without_momentum_the_loss_is_that_of_deepinversion():
    stream = opened(settings(momentum=0.0, one_hot=0.5, batchnorm=10.0))
    teacher, images = stream._teacher, torch.rand(16, 1, 8, 8, generator=rng(3))
    labels = torch.arange(16) % 3
    loss = stream._batch_loss(images, labels, None, rng())
    with MomentsRecorder(teacher, stored_statistics(teacher)) as recorder:
        logits = teacher(images)
        far = feature_statistics_loss(recorder.read(), stored_statistics(teacher), 1.0)
    torch.testing.assert_close(loss, 0.5 * F.cross_entropy(logits, labels) + 10 * far)


def test_the_images_of_the_least_loss_are_kept(monkeypatch):
    stream, seen = opened(settings()), []
    told = iter([3.0, 1.0, 2.0])

    def loss_of(images, labels, opponent, rng):
        seen.append(images.detach().clone())
        stream._seen = {}
        return next(told) + 0 * images.sum()

    monkeypatch.setattr(stream, "_batch_loss", loss_of)
    batch = stream.draw(0, None)
    assert torch.equal(batch.images, seen[1])
    assert batch.metrics["synthesis_loss"] == 1.0


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network, self.asked = tiny.network(1), 0

    def forward(self, images):
        self.asked += 1
        return self.network(images)


def test_the_student_is_asked_after_the_warm_up_only_and_comes_back_as_it_was():
    stream, student = opened(settings(warm_up=2)), Counted().train()
    before = copy.deepcopy(student.state_dict())
    asked = []
    for step in range(4):
        stream.draw(step, student)
        asked.append(student.asked)
    assert asked == [0, 0, 3, 6]
    torch.testing.assert_close(student.state_dict(), before, rtol=0, atol=0)
    assert student.training
    assert all(parameter.grad is None for parameter in student.parameters())


def test_against_the_student_other_images_are_found():
    alone, against = (opened(settings(adversarial=how)) for how in (0.0, 50.0))
    student = tiny.network(1)
    assert torch.equal(alone.draw(0, student).images, opened(settings()).draw(0, None).images)
    assert not torch.equal(against.draw(0, student).images, alone.draw(0, student).images)


def test_reptile_learns_from_the_way_gone():
    stream = opened(settings(mode="reptile"))
    start = [value.detach().clone() for value in stream._generator.parameters()]
    ends: list[list[torch.Tensor]] = []
    learn = stream._learn

    def learning(inner, summed):
        ends.append([value.detach().clone() for value in inner.parameters()])
        learn(inner, summed)

    stream._learn = learning  # type: ignore[method-assign]
    stream.draw(0, None)
    way = [67 * (a - b) for a, b in zip(start, ends[0], strict=True)]
    torch.testing.assert_close(meta_gradients(stream), way)


def test_what_stays_of_a_batch_depends_on_the_mode():
    for mode, learns in (("maml", True), ("reptile", True), ("continue", True), ("fresh", False)):
        stream = opened(settings(mode=mode))
        before = weights(stream)
        stream.draw(0, None)
        assert bool(moved(before, weights(stream))) is learns


def test_a_generator_that_learns_comes_nearer_in_as_many_steps_than_one_that_begins_afresh():
    loss = {}
    for mode in ("maml", "fresh"):
        stream = opened(settings(mode=mode, learning_rate=1e-2, momentum=0.0), batch_size=32)
        for step in range(60):
            metrics = stream.draw(step, None).metrics
        loss[mode] = metrics["synthesis_loss"].item()
    assert loss["maml"] < 0.95 * loss["fresh"]


def test_the_first_layer_is_drawn_anew_when_due():
    stream = opened(settings(mode="fresh", renew_every=2))
    start = weights(stream)
    stream.draw(1, None)
    assert moved(start, weights(stream)) == []
    stream.draw(2, None)
    assert moved(start, weights(stream)) == ["first.weight"]
    assert weights(stream)["first.weight"].std().item() == pytest.approx(0.02, rel=0.2)
    whole = opened(settings(mode="fresh", renew_every=2, renew="whole"))
    whole.draw(2, None)
    assert "last.weight" in moved(start, weights(whole))


def test_noisy_layers_show_all_classes_in_turn():
    batch = opened(settings(noisy_layer=True, mode="continue")).draw(0, None)
    assert batch.labels is not None
    assert batch.labels.tolist() == [i % 3 for i in range(16)]
    assert len(batch.images.flatten(1).unique(dim=0)) == 16


def test_labels_and_cost_are_told():
    batch = opened(settings()).draw(0, None)
    assert batch.labels is not None
    assert batch.labels.shape == (16,)
    assert batch.metrics["teacher_passes"] == 6
    assert not batch.images.requires_grad


def test_a_teacher_without_batchnorm_is_refused_unless_one_asks_for_it():
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="use --method dfad or rdskd, or set batchnorm to 0"):
        opened(settings(), bare)
    with pytest.warns(RuntimeWarning, match="the generator is likely to collapse"):
        stream = opened(settings(batchnorm=0.0, one_hot=1.0), bare)
    assert stream.draw(0, None).images.shape == (16, 1, 8, 8)


def test_a_stuck_generator_is_started_afresh_once_and_then_refused():
    check = CollapseCheck(every=1, count=16, patience=1)
    # codes that are all the same make one image
    stuck = settings(collapse=check, mode="fresh", adversarial=0.0)
    stream = opened(stuck)
    stream._generator.draw_codes = lambda count, rng: torch.zeros(count, 8)  # type: ignore[method-assign]
    stream.draw(0, None)
    with pytest.warns(RuntimeWarning, match="of its new images are duplicates"):
        batch = stream.draw(1, None)
    assert batch.metrics["generator_restarts"] == 1
    stream._generator.draw_codes = lambda count, rng: torch.zeros(count, 8)  # type: ignore[method-assign]
    with pytest.raises(CollapseError, match="also after it was re-initialised"):
        stream.draw(2, None)


def test_the_published_settings_differ_in_steps_and_rates_alone():
    assert PUBLISHED["fast-5"] == FastMeta()
    told = [
        (fast.inner_steps, fast.learning_rate, fast.code_learning_rate)
        for fast in (PUBLISHED["fast-2"], PUBLISHED["fast-5"], PUBLISHED["fast-10"])
    ]
    assert told == [(2, 5e-3, 0.015), (5, 3e-3, 0.01), (10, 2e-3, 0.01)]
    assert PUBLISHED["nayer"].noisy_layer


def test_it_cannot_be_held_out_and_needs_a_teacher():
    assert isinstance(FastMeta(), OptimisedSource)
    with pytest.raises(ValueError, match="there is none; use a source without a teacher"):
        FastMeta().open(context(), None, rng())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner_steps": 0}, "inner_steps must be positive, got 0"),
        ({"warm_up": -1}, "warm_up must not be negative, got -1"),
        ({"batchnorm": 0.0, "one_hot": 0.0}, "batchnorm or one_hot must be positive"),
        ({"flip": 2.0}, r"flip must lie in \[0, 1\], got 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(settings(), **change)


def test_contrast_changes_what_is_made_and_is_refused_without_batchnorm():
    plain, told_apart = opened(settings()), opened(settings(contrast=5.0))
    one, other = (stream.draw(0, None) for stream in (plain, told_apart))
    assert not torch.equal(one.images, other.images)
    assert (one.metrics["teacher_passes"], other.metrics["teacher_passes"]) == (6, 15)
    assert len(told_apart.state_dict()["contrast"]["bank"]) == 16
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="set contrast to 0"):
        opened(settings(batchnorm=0.0, contrast=1.0), bare)


def test_with_contrast_a_run_goes_on_to_the_same_bits():
    whole = opened(settings(contrast=5.0))
    shown = [whole.draw(step, None).images for step in range(3)]
    first = opened(settings(contrast=5.0))
    first.draw(0, None)
    second = opened(settings(contrast=5.0))
    second.load_state_dict(first.state_dict())
    for step in (1, 2):
        assert torch.equal(second.draw(step, None).images, shown[step])
