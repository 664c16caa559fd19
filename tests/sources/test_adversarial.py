import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from doublure.core.protocols import (
    Batch,
    InputContract,
    Source,
    State,
    Stream,
    StreamContext,
    image_batch,
)
from doublure.core.seeding import child, from_seed
from doublure.nets.boundary import BoundaryAttack
from doublure.sources.adversarial import Adversarial, AdversarialStream, other_classes
from doublure.sources.noise import Noise

EXAMPLES = (Adversarial(source=Noise(), every=2, rounds=2, attack=BoundaryAttack(num_steps=4)),)

CLASSES = 3


def teacher(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, CLASSES)
        return nn.Sequential(*layers).eval().requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class Speckle:
    """Noise at the levels k / 7 only, so that an attacked image can be told from it."""

    two_views: bool = False
    size: int = 6

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "SpeckleStream":
        return SpeckleStream(self, context, rng)


class SpeckleStream:
    def __init__(self, settings: Speckle, context: StreamContext, rng: torch.Generator) -> None:
        self.settings, self.context, self.rng, self.draws = settings, context, rng, 0

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        self.draws += 1
        rng = child(self.rng, self.context.split, self.context.rank, step)
        shape = (self.context.batch_size, 1, self.settings.size, self.settings.size)
        images = torch.randint(8, shape, generator=rng) / 7
        metrics = {"brightness": images.mean()}
        if self.settings.two_views:
            return Batch(views={"student": images, "teacher": images.clone()})
        return image_batch(images, labels=torch.zeros(shape[0], dtype=torch.int64), metrics=metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = state["draws"]


def context(**changes: Any) -> StreamContext:
    contract = InputContract(size=(6, 6), channels=1, mean=(0.0,), std=(1.0,), classes=CLASSES)
    fields = {"contract": contract, "device": torch.device("cpu"), "batch_size": 32, "steps": 100}
    return StreamContext(**(fields | changes))


def settings(**changes: Any) -> Adversarial:
    numbers = {"source": Speckle(), "attack": BoundaryAttack(step_size=2.0)}
    return Adversarial(**(numbers | changes))


def open_stream(adversarial: Adversarial, seed: int = 0, **changes: Any) -> AdversarialStream:
    return adversarial.open(context(**changes), teacher(), from_seed(seed))


def from_the_source(images: Tensor) -> Tensor:
    """Which images lie on the levels of Speckle."""
    return ((images * 7).round() / 7 - images).abs().flatten(1).amax(1) < 1e-6


@given(seed=st.integers(0, 99))
def test_targets_are_other_classes(seed):
    classes = torch.randint(5, (40,), generator=from_seed(seed))
    targets = other_classes(classes, 5, from_seed(seed + 1))
    assert (targets != classes).all()
    assert targets.min() >= 0
    assert targets.max() < 5


def test_every_other_class_is_equally_likely():
    classes = torch.full((9000,), 1)
    shares = other_classes(classes, 4, from_seed(0)).bincount(minlength=4) / 9000
    torch.testing.assert_close(shares, torch.tensor([1, 0, 1, 1]) / 3, atol=0.02, rtol=0)


def test_the_stated_share_of_a_batch_is_attacked_and_the_rest_is_the_sources():
    stream = open_stream(settings(share=0.25))
    inner = Speckle().open(context(), None, child(from_seed(0), "source"))
    for step in range(5):
        batch = stream.draw(step, None)
        drawn = inner.draw(step, None).images
        kept = from_the_source(batch.images)
        assert kept.sum() == 24
        assert torch.equal(batch.images[kept], drawn[kept])
        assert batch.metrics["attacked_share"].item() == 0.25
        assert 0 <= batch.images.min() <= batch.images.max() <= 1


def test_all_four_kinds_are_shown_in_equal_parts():
    once = settings(share=1.0, reuse=1, every=1, rounds=1)
    stream = open_stream(once)
    images = stream.draw(0, None).images
    ring = stream.state_dict()["ring"]
    assert len(ring) == 32
    order = (images * 255).round().byte().flatten(1).tolist()
    assert sorted(order) == sorted(ring.flatten(1).tolist())
    pre, post, deep_pre, deep_post = (kind / 255 for kind in ring.chunk(4))
    net = teacher()
    classes = [net(kind).argmax(-1) for kind in (pre, post, deep_pre, deep_post)]
    assert (classes[0] != classes[1]).float().mean() > 0.8  # rounding may push one back
    for shallow, deep, of in ((pre, deep_pre, classes[0]), (post, deep_post, classes[1])):
        before = nn.functional.cross_entropy(net(shallow), of)
        assert nn.functional.cross_entropy(net(deep), of) < before


def test_with_nothing_reused_each_attacked_image_is_shown_once():
    stream = open_stream(settings(reuse=1, every=1, rounds=1))
    seen: list[tuple[float, ...]] = []
    for step in range(4):
        images = stream.draw(step, None).images
        attacked = images[~from_the_source(images)]
        seen += [tuple(image.flatten().tolist()) for image in attacked]
    assert len(seen) == 4 * 16
    assert len(set(seen)) == len(seen)


def test_an_attacked_image_is_shown_reuse_times_on_average():
    stream = open_stream(settings(reuse=4, every=4, rounds=2))
    shown = 0
    for step in range(40):
        images = stream.draw(step, None).images
        shown += int((~from_the_source(images)).sum())
    cost = stream.state_dict()["cost"]
    assert shown / (4 * cost["found"]) == pytest.approx(4, rel=0.05)
    assert cost["attacked"] == 10 * 4


def test_attacks_are_made_every_so_many_steps_only():
    stream = open_stream(settings(every=4))
    attacked = []
    for step in range(9):
        stream.draw(step, None)
        attacked.append(stream.state_dict()["cost"]["attacked"])
    assert [b - a for a, b in zip([0, *attacked], attacked, strict=False)] == [
        4, 0, 0, 0, 4, 0, 0, 0, 4,
    ]  # fmt: skip


def test_the_ring_holds_the_newest_rounds():
    stream = open_stream(settings(every=1, reuse=1, rounds=3))
    for step in range(10):
        stream.draw(step, None)
        assert len(stream.state_dict()["ring"]) == 16 * min(step + 1, 3)


def test_failed_attacks_leave_the_inner_images_in_place():
    stream = open_stream(settings(attack=BoundaryAttack(step_size=1e-9, num_steps=1)))
    batch = stream.draw(0, None)
    inner = Speckle().open(context(), None, child(from_seed(0), "source"))
    assert torch.equal(batch.images, inner.draw(0, None).images)
    assert batch.metrics["attack_success"] == 0
    assert batch.metrics["attacked_share"] == 0


def test_the_facts_say_what_attacks_cost_and_keep_those_of_the_inner_source():
    stream = open_stream(settings())
    metrics = stream.draw(0, None).metrics
    cost = stream.state_dict()["cost"]
    assert metrics["attack_passes"].item() == pytest.approx(cost["passes"] / 32)
    assert metrics["attack_success"].item() == pytest.approx(cost["found"] / cost["attacked"])
    assert "brightness" in metrics
    assert all(value.dim() == 0 for value in metrics.values())


def test_the_labels_of_the_inner_source_are_dropped():
    assert open_stream(settings()).draw(0, None).labels is None


def test_teacher_and_inner_images_are_left_as_they_were():
    net = teacher()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    stream = settings().open(context(), net, from_seed(0))
    stream.draw(0, None)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_batch_of_two_is_attacked_too():
    batch = open_stream(settings(), batch_size=2, steps=1).draw(0, None)
    assert from_the_source(batch.images).tolist().count(False) == 1


def test_the_same_seed_shows_the_same_and_another_does_not():
    one, same, other = (open_stream(settings(), seed=seed) for seed in (0, 0, 1))
    for step in range(3):
        images = one.draw(step, None).images
        assert torch.equal(images, same.draw(step, None).images)
        assert not torch.equal(images, other.draw(step, None).images)


def test_a_held_out_stream_and_another_rank_attack_otherwise():
    shown = [
        open_stream(settings(), **changes).draw(0, None).images
        for changes in ({}, {"split": "held_out"}, {"rank": 1, "world": 2})
    ]
    assert not torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])


@pytest.mark.parametrize("kill_at", [0, 1, 5, 16])
def test_a_killed_run_goes_on_to_the_same_bits(kill_at: int):
    whole = open_stream(settings(every=4))
    batches = [whole.draw(step, None) for step in range(kill_at + 8)]
    first = open_stream(settings(every=4))
    for step in range(kill_at):
        first.draw(step, None)
    state = first.state_dict()
    first.draw(kill_at, None)
    second = open_stream(settings(every=4))
    second.load_state_dict(state)
    for step in range(kill_at, kill_at + 8):
        batch = second.draw(step, None)
        assert torch.equal(batch.images, batches[step].images)
        assert batch.metrics["attack_passes"] == batches[step].metrics["attack_passes"]
    assert second.state_dict()["source"] == whole.state_dict()["source"]


def test_it_is_a_source_and_its_stream_has_state():
    stream = open_stream(settings())
    assert isinstance(settings(), Source)
    assert isinstance(stream, Stream)
    assert isinstance(stream, State)


def test_without_a_teacher_it_says_what_to_do():
    with pytest.raises(ValueError, match="there is none; use the inner source without Adversarial"):
        settings().open(context(), None, from_seed(0))


def test_one_class_has_no_boundary():
    contract = dataclasses.replace(context().contract, classes=1)
    with pytest.raises(ValueError, match="two classes, but the teacher has 1"):
        settings().open(context(contract=contract), teacher(), from_seed(0))


def test_two_different_views_are_refused():
    with pytest.raises(ValueError, match="needs the same images for student and teacher"):
        open_stream(settings(source=Speckle(two_views=True))).draw(0, None)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"drew \(1, 5, 5\); change the size outside of"):
        open_stream(settings(source=Speckle(size=5))).draw(0, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": 0.0}, "share must be positive, got 0.0"),
        ({"share": 1.5}, r"share must lie in \[0, 1\], got 1.5"),
        ({"reuse": 0.5}, "reuse must be at least 1, got 0.5"),
        ({"every": 0}, "every must be positive, got 0"),
        ({"rounds": 0}, "rounds must be positive, got 0"),
        ({"every": 40}, r"every must be at most 4 \* reuse / share = 32, got 40"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        settings(**change)
