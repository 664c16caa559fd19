import dataclasses
from dataclasses import dataclass
from pathlib import Path
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
from doublure.sources.balanced import (
    Balanced,
    BalancedStream,
    admit,
    pair_for_attack,
    pick_evenly,
    relative_entropy,
    starved_classes,
)
from doublure.sources.noise import Noise

EXAMPLES = (Balanced(source=Noise(), pool_size=24, chunk=8, attack=BoundaryAttack(num_steps=4)),)

CLASSES = 4


class ByBrightness(nn.Module):
    """Calls an image by its mean brightness, cut into equal intervals."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.register_buffer("centres", (torch.arange(classes) + 0.5) / classes)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return -100 * (images.mean((1, 2, 3))[:, None] - self.centres).square()


@dataclass(frozen=True, kw_only=True)
class Grey:
    """Even grey images; `top` is the brightest. Counts its draws, as a state."""

    top: float = 1.0
    power: float = 1.0
    seen: list[Any] = dataclasses.field(default_factory=list)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "GreyStream":
        return GreyStream(self, context, rng)


class GreyStream:
    def __init__(self, settings: Grey, context: StreamContext, rng: torch.Generator) -> None:
        self.settings, self.context, self.rng, self.draws = settings, context, rng, 0

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        assert student is None
        assert step == self.draws
        self.draws += 1
        self.settings.seen.append(step)
        count, shape = (
            self.context.batch_size,
            (self.context.contract.channels, *self.context.contract.size),
        )
        rng = child(self.rng, self.context.split, self.context.rank, step)
        level = self.settings.top * torch.rand(count, generator=rng) ** self.settings.power
        return image_batch(level.view(-1, 1, 1, 1).expand(count, *shape).contiguous())

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = state["draws"]


def context(**changes: Any) -> StreamContext:
    contract = InputContract(size=(3, 3), channels=1, mean=(0.0,), std=(1.0,), classes=CLASSES)
    fields = {"contract": contract, "device": torch.device("cpu"), "batch_size": 16, "steps": 100}
    return StreamContext(**(fields | changes))


def settings(source: Source | None = None, **changes: Any) -> Balanced:
    numbers = {"pool_size": 400, "chunk": 40, "attack": BoundaryAttack(step_size=5.0)}
    return Balanced(source=source or Grey(), **(numbers | changes))


def open_stream(balanced: Balanced, seed: int = 0, **changes: Any) -> BalancedStream:
    return balanced.open(context(**changes), ByBrightness(), from_seed(seed))


def fill(stream: BalancedStream) -> int:
    step = 0
    while not stream.finished:
        stream.draw(step, None)
        step += 1
    return step


def test_candidates_are_admitted_up_to_the_quota_of_their_class():
    classes, counts = torch.tensor([0, 0, 1, 0, 2, 1]), torch.tensor([1, 0, 3])
    assert admit(classes, counts, 3).tolist() == [True, True, True, False, False, True]


@given(seed=st.integers(0, 99), quota=st.integers(0, 8))
def test_admission_never_passes_the_quota_and_never_turns_away_below_it(seed, quota):
    rng = from_seed(seed)
    classes = torch.randint(5, (20,), generator=rng)
    counts = torch.randint(4, (5,), generator=rng)
    after = counts + classes[admit(classes, counts, quota)].bincount(minlength=5)
    wanted = (counts + classes.bincount(minlength=5)).clamp(max=quota).maximum(counts)
    assert torch.equal(after, wanted)


def test_a_class_is_starved_if_at_its_rate_the_draws_allowed_will_not_fill_it():
    # Quota 50 within 1000 draws asks for one in twenty; after 100 draws, for five.
    assert starved_classes(torch.tensor([0, 3, 4, 5]), 100, 1000, 50).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_the_neediest_class_comes_first_and_takes_its_nearest_image():
    logits = torch.tensor([[5.0, 1.0, 0.0], [5.0, 4.0, 3.0], [5.0, 2.0, 4.0]])
    rows, targets = pair_for_attack(logits, torch.tensor([0, 2, 1]), limit=9)
    assert targets.tolist() == [1, 2, 1]
    assert rows.tolist() == [1, 2, 0]


def test_no_more_pairs_are_made_than_the_limit_or_the_images_allow():
    logits, needs = torch.randn(3, 4, generator=from_seed(0)), torch.tensor([9, 9, 9, 9])
    assert len(pair_for_attack(logits, needs, limit=2)[0]) == 2
    rows, targets = pair_for_attack(logits, needs, limit=50)
    assert sorted(rows.tolist()) == [0, 1, 2]
    assert targets.tolist() == [0, 1, 2]


def test_classes_of_an_uneven_pool_are_picked_equally_often():
    classes = torch.tensor([0] * 90 + [2] * 9 + [3])
    order = classes.flip(0).argsort(stable=True)
    picks = pick_evenly(order, classes.bincount(), 9000, from_seed(0))
    shares = classes.flip(0)[picks].bincount(minlength=4) / 9000
    torch.testing.assert_close(shares, torch.tensor([1, 0, 1, 1]) / 3, atol=0.02, rtol=0)
    assert len(picks.unique()) == 100


def test_relative_entropy_is_one_if_even_zero_for_one_class_and_by_hand_between():
    assert relative_entropy(torch.tensor([7, 7, 7])) == pytest.approx(1, abs=1e-12)
    assert relative_entropy(torch.tensor([0, 5, 0])) == 0
    assert relative_entropy(torch.tensor([4, 4, 0, 0])) == pytest.approx(0.5)
    assert relative_entropy(torch.tensor([3])) == 1


def test_with_enough_supply_every_class_gets_exactly_its_quota():
    stream = open_stream(settings(Grey(power=1.5), max_draws_factor=4, attack_fill=False))
    fill(stream)
    report = stream.report()
    assert report["counts"] == [100] * CLASSES
    assert report["entropy"] == pytest.approx(1, abs=1e-6)
    assert report["uncovered"] == []
    assert report["attacked"] == 0
    assert report["forwards"] == report["draws"]


def test_classes_stay_even_while_the_pool_fills():
    stream = open_stream(settings(Grey(power=1.5), attack_fill=False))
    stream.draw(0, None)
    assert max(stream.report()["counts"]) <= 10  # 40 of 400 drawn: a tenth of the quota


def test_the_images_of_the_pool_are_what_the_teacher_says_they_are():
    stream = open_stream(settings(Grey(top=0.5)))
    fill(stream)
    images = stream.draw(99, None).images
    called = ByBrightness()(images).argmax(-1).bincount(minlength=CLASSES)
    assert (called > 0).all()
    every = stream.state_dict()
    again = ByBrightness()(every["pool"]["images"] / 255).argmax(-1)
    assert torch.equal(again, every["classes"].long())


def test_starved_classes_are_filled_by_attack():
    bare, filled = (
        open_stream(settings(Grey(top=0.5), attack_fill=attack)) for attack in (False, True)
    )
    fill(bare)
    fill(filled)
    assert bare.report()["counts"] == [100, 100, 0, 0]
    assert bare.report()["uncovered"] == [2, 3]
    assert min(filled.report()["counts"]) > 90
    assert filled.report()["uncovered"] == []
    assert filled.report()["attack_kept"] > 180


def test_well_supplied_classes_are_not_attacked():
    stream = open_stream(settings(Grey()))
    fill(stream)
    assert stream.report()["attacked"] == 0


def test_attacks_per_chunk_are_bounded():
    stream = open_stream(settings(Grey(top=0.5), attacks_per_chunk=3))
    fill(stream)
    report = stream.report()
    assert report["attacked"] <= 3 * report["chunks"]
    assert report["draws"] == 2 * 400


def test_rare_classes_repeat_if_sampling_is_even_and_stay_rare_if_not():
    shares = []
    for even in (True, False):
        source = Grey(top=0.52)
        balanced = settings(source, attack_fill=False, even_sampling=even)
        stream = open_stream(balanced, batch_size=600)
        fill(stream)
        called = ByBrightness()(stream.draw(99, None).images).argmax(-1)
        shares.append((called == 2).float().mean().item())
    assert shares[0] == pytest.approx(1 / 3, abs=0.07)
    assert shares[1] < 0.2


def test_the_first_draw_has_a_batch_and_later_ones_add_one_chunk():
    source = Grey()
    stream = open_stream(settings(source, attack_fill=False), batch_size=100)
    assert stream.draw(0, None).images.shape == (100, 1, 3, 3)
    opened = len(source.seen)
    assert opened > 2
    stream.draw(1, None)
    stream.draw(2, None)
    assert len(source.seen) == opened + 2


def test_a_full_pool_draws_no_more():
    source = Grey()
    stream = open_stream(settings(source))
    step = fill(stream)
    drawn = len(source.seen)
    stream.draw(step, None)
    assert len(source.seen) == drawn


def test_a_short_run_keeps_no_more_than_it_shows():
    stream = open_stream(settings(), batch_size=2, steps=1)
    assert stream.capacity == CLASSES
    assert stream.draw(0, None).images.shape == (2, 1, 3, 3)
    assert stream.report()["draws"] <= 2 * CLASSES


def test_an_image_that_would_be_shown_too_seldom_is_not_drawn():
    stream = open_stream(settings(least_showings=4), batch_size=4 * CLASSES, steps=2)
    assert stream.capacity == 2 * CLASSES


def test_held_out_images_are_drawn_for_a_single_look():
    stream = open_stream(
        settings(least_showings=4), batch_size=4 * CLASSES, steps=2, split="held_out"
    )
    assert stream.capacity == 8 * CLASSES


def test_steps_between_two_chunks_draw_nothing():
    stream = open_stream(settings(pool_size=400, chunk=40, fill_every=3), batch_size=8, steps=100)
    drawn = [(stream.draw(step, None), stream.report()["draws"])[1] for step in range(7)]
    assert drawn == [40, 40, 40, 80, 80, 80, 120]


def test_a_source_of_one_colour_still_gives_batches():
    stream = open_stream(settings(Grey(top=0.0), attack_fill=False))
    fill(stream)
    assert stream.report()["uncovered"] == [1, 2, 3]
    assert stream.draw(99, None).metrics["pool_uncovered"] == 3


def test_one_class_needs_no_balance():
    contract = dataclasses.replace(context().contract, classes=1)
    stream = settings().open(context(contract=contract), ByBrightness(1), from_seed(0))
    fill(stream)
    assert stream.report()["counts"] == [400]


def test_each_process_keeps_its_part_of_the_pool():
    ranks = [open_stream(settings(), rank=rank, world=2) for rank in (0, 1)]
    assert [stream.capacity for stream in ranks] == [200, 200]
    one, two = (stream.draw(0, None).images for stream in ranks)
    assert not torch.equal(one, two)


def test_the_same_seed_shows_the_same_and_another_does_not():
    one, same, other = (open_stream(settings(), seed=seed) for seed in (0, 0, 1))
    for step in range(3):
        images = one.draw(step, None).images
        assert torch.equal(images, same.draw(step, None).images)
        assert not torch.equal(images, other.draw(step, None).images)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("kill_at", [0, 1, 4, 40])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, on_disk: bool, kill_at: int):
    scratch = tmp_path if on_disk else None
    balanced = settings(Grey(top=0.6))
    whole = open_stream(balanced, scratch=None)
    expected = [whole.draw(step, None).images for step in range(kill_at + 20)]
    first = open_stream(balanced, scratch=scratch)
    for step in range(kill_at):
        first.draw(step, None)
    state = first.state_dict()
    first.draw(kill_at, None)  # what a killed process did after its last checkpoint
    first.draw(kill_at + 1, None)
    second = open_stream(balanced, scratch=scratch)
    second.load_state_dict(state)
    for step in range(kill_at, kill_at + 20):
        assert torch.equal(second.draw(step, None).images, expected[step])
    assert second.report() == whole.report()


def test_with_a_scratch_folder_the_state_holds_no_images(tmp_path: Path):
    stream = open_stream(settings(), scratch=tmp_path)
    stream.draw(0, None)
    assert set(stream.state_dict()["pool"]) == {"filled", "checksum"}
    (file,) = tmp_path.glob("[!.]*")  # beside the list of files that are ours
    assert file.stat().st_size == stream.report()["images"] * 9


def test_a_held_out_pool_leaves_no_file(tmp_path: Path):
    stream = open_stream(settings(), scratch=tmp_path, split="held_out")
    stream.draw(0, None)
    assert not list(tmp_path.iterdir())


def test_a_pool_file_that_is_missing_short_or_changed_is_refused(tmp_path: Path):
    stream = open_stream(settings(), scratch=tmp_path)
    stream.draw(0, None)
    state = stream.state_dict()
    (file,) = tmp_path.glob("[!.]*")  # beside the list of files that are ours
    content = file.read_bytes()
    file.write_bytes(bytes(len(content)))
    with pytest.raises(ValueError, match=r"is not this run's pool; restart the run"):
        open_stream(settings(), scratch=tmp_path).load_state_dict(state)
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"lacks images of this run's pool"):
        open_stream(settings(), scratch=tmp_path).load_state_dict(state)
    file.unlink()
    with pytest.raises(ValueError, match=r"lacks images of this run's pool"):
        open_stream(settings(), scratch=tmp_path).load_state_dict(state)


def test_what_the_pool_cost_is_among_the_facts():
    stream = open_stream(settings(Grey(top=0.5)))
    metrics = stream.draw(0, None).metrics
    report = stream.report()
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {
            "pool_images": report["images"],
            "pool_draws": report["draws"],
            "pool_forwards": report["forwards"],
            "pool_attack_passes": report["attack_passes"],
            "pool_entropy": report["entropy"],
            "pool_uncovered": 0,
            "pool": report["images"] / report["capacity"],
        }
    )
    assert all(value.dim() == 0 for value in metrics.values())


def test_it_is_a_source_and_its_stream_has_state():
    stream = open_stream(settings())
    assert isinstance(settings(), Source)
    assert isinstance(stream, Stream)
    assert isinstance(stream, State)


def test_without_a_teacher_it_says_what_to_do():
    with pytest.raises(ValueError, match="there is none; use the inner source without Balanced"):
        settings().open(context(), None, from_seed(0))


class Answers(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"maps": torch.zeros(1)}, TypeError, "one tensor of logits, but the teacher's output is"),
        (
            torch.zeros(40, 7),
            ValueError,
            r"4 logits per image, but the teacher's output has shape \(40, 7\)",
        ),
        (torch.full((40, 4), torch.nan), ValueError, "logits are not finite"),
    ],
)
def test_a_teacher_that_does_not_classify_is_refused(answer, error, message):
    stream = settings().open(context(), Answers(answer).eval(), from_seed(0))
    with pytest.raises(error, match=message):
        stream.draw(0, None)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    images: Tensor

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "FixedStream":
        return FixedStream(self.images)


class FixedStream:
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return image_batch(self.images)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((4, 1, 3, 3), torch.nan), "values that are not finite"),
        (torch.zeros(4, 1, 5, 5), r"shape \(1, 3, 3\), but the inner source drew \(1, 5, 5\)"),
    ],
)
def test_images_that_cannot_be_pooled_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        open_stream(settings(Fixed(images=images))).draw(0, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool_size": 0}, "pool_size must be positive, got 0"),
        ({"chunk": 0}, "chunk must be positive, got 0"),
        ({"attacks_per_chunk": 0}, "attacks_per_chunk must be positive, got 0"),
        ({"max_draws_factor": 0.5}, "max_draws_factor must be at least 1, got 0.5"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        settings(**change)
