import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from doublure.core.protocols import Batch, Source, Stream, StreamContext, image_batch
from doublure.core.seeding import child
from doublure.sources.noise import Noise
from doublure.sources.replay import Replay, ReplayStream
from tests import tiny

EXAMPLES = (Replay(source=Noise(), every=2, first=2),)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Images of one grey each, which is their number; notes for whom they were drawn."""

    labels: bool = True
    calls: list[Any] = dataclasses.field(default_factory=list)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "CountedStream":
        return CountedStream(self, context)


class CountedStream:
    def __init__(self, settings: Counted, context: StreamContext) -> None:
        self.settings, self.context, self.drawn = settings, context, 0

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        count = self.context.batch_size
        assert step * count == self.drawn
        self.settings.calls.append((step, student))
        number = torch.arange(self.drawn, self.drawn + count)
        self.drawn += count
        images = (number / 255).view(-1, 1, 1, 1).expand(count, 1, 8, 8).contiguous()
        labels = number % 3 if self.settings.labels else None
        return image_batch(images, labels=labels, metrics={"cost": torch.tensor(float(step))})

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


def opened(source: Source | None = None, *, context: StreamContext | None = None, **changes: Any):
    settings = {"every": 3, "first": 2} | changes
    replay = Replay(source=source or Counted(), **settings)
    return replay.open(context or tiny.context(batch_size=8, steps=12), None, tiny.rng())


def numbers(batch: Batch) -> Tensor:
    return (batch.images[:, 0, 0, 0] * 255).round().long()


def test_batches_are_made_before_the_first_step_and_then_at_the_pace_told():
    source, student = Counted(), tiny.network(1)
    stream = opened(source)
    made = []
    for step in range(12):
        stream.draw(step, student)
        made.append(len(source.calls))
    assert made == [2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert stream.planned == 5


def test_only_what_is_made_between_steps_sees_the_student():
    source, student = Counted(), tiny.network(1)
    stream = opened(source)
    for step in range(7):
        stream.draw(step, student)
    assert [seen is student for _, seen in source.calls] == [False, False, True, True]


def test_a_new_batch_is_shown_at_once_and_the_rest_comes_evenly_from_all_before():
    stream = opened(context=tiny.context(batch_size=8, steps=300), every=3, capacity=40)
    seen = torch.zeros(40, dtype=torch.int64)
    for step in range(300):
        shown = numbers(stream.draw(step, None))
        if step in (3, 6, 9):
            assert shown.tolist() == list(range(8 * (1 + step // 3), 8 * (2 + step // 3)))
        if step > 9:
            seen += shown.bincount(minlength=40)
    mean = seen.sum() / 40
    assert ((seen - mean).abs() < 5 * mean.sqrt()).all()


def test_labels_stay_with_their_images_and_no_labels_stay_none():
    stream = opened()
    for step in range(9):
        batch = stream.draw(step, None)
        assert torch.equal(batch.labels, numbers(batch) % 3)
    assert opened(Counted(labels=False)).draw(0, None).labels is None


@pytest.mark.parametrize(("made_at_once", "planned"), [(3, 2 + 3), (20, 2 + 3)])
def test_a_new_batch_may_be_smaller_or_larger_than_what_a_step_shows(made_at_once, planned):
    stream = opened(made_at_once=made_at_once)
    for step in range(4):
        batch = stream.draw(step, None)
        assert len(batch.images) == 8
    fresh = numbers(batch)[: min(made_at_once, 8)]
    assert fresh.tolist() == list(range(2 * made_at_once, 2 * made_at_once + len(fresh)))
    assert stream.planned == planned


def test_a_full_pool_makes_no_more():
    source = Counted()
    stream = opened(source, capacity=25)
    for step in range(12):
        stream.draw(step, None)
    assert len(source.calls) == stream.planned == 3


def test_neither_a_glance_nor_the_held_out_split_makes_more_than_it_needs():
    source = Counted()
    opened(source, context=tiny.context(batch_size=2, steps=1), first=4).draw(0, None)
    assert len(source.calls) == 1
    held = opened(context=tiny.context(batch_size=8, steps=12, split="held_out"))
    assert held.planned == 2


def test_processes_share_the_pool():
    one = opened(context=tiny.context(batch_size=8, steps=99, rank=0, world=2), capacity=48)
    assert one.planned == 3


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("kill_at", [1, 3, 5, 9])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, on_disk: bool, kill_at: int):
    def fresh() -> ReplayStream:
        where = tmp_path if on_disk else None
        return opened(context=tiny.context(batch_size=8, steps=14, scratch=where))

    whole = opened(context=tiny.context(batch_size=8, steps=14))
    expected = [whole.draw(step, None) for step in range(14)]
    first = fresh()
    for step in range(kill_at):
        first.draw(step, None)
    state = first.state_dict()
    for step in range(kill_at, min(14, kill_at + 4)):
        first.draw(step, None)
    second = fresh()
    second.load_state_dict(state)
    for step in range(kill_at, 14):
        batch = second.draw(step, None)
        assert torch.equal(batch.images, expected[step].images)
        assert torch.equal(batch.labels, expected[step].labels)
        assert batch.metrics == expected[step].metrics


def test_with_a_scratch_folder_the_state_holds_no_images(tmp_path: Path):
    stream = opened(context=tiny.context(batch_size=8, steps=12, scratch=tmp_path))
    stream.draw(0, None)
    assert set(stream.state_dict()["pool"]) == {"filled", "checksum"}
    (file,) = tmp_path.glob("[!.]*")  # beside the list of files that are ours
    assert file.stat().st_size == 16 * 64


def test_facts_say_how_full_the_pool_is_and_what_the_newest_batch_cost():
    stream = opened()
    metrics = {name: value.item() for name, value in stream.draw(0, None).metrics.items()}
    assert metrics == {"cost": 1, "pool_images": 16, "pool": pytest.approx(2 / 5)}
    stream.draw(3, None)
    assert stream.draw(4, None).metrics["cost"] == 2


def test_images_of_another_size_are_refused():
    @dataclass(frozen=True, kw_only=True)
    class Small:
        def open(
            self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
        ) -> "Small":
            return self

        def draw(self, step: int, student: nn.Module | None) -> Batch:
            return image_batch(torch.rand(8, 1, 4, 4, generator=child(tiny.rng(), step)))

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    with pytest.raises(ValueError, match="change the size outside of Replay"):
        opened(Small()).draw(0, None)


def test_it_is_a_source_and_its_stream_a_stream():
    assert isinstance(Replay(source=Counted()), Source)
    assert isinstance(opened(), Stream)
    for name in ("every", "first", "capacity", "made_at_once"):
        with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
            Replay(source=Counted(), **{name: 0})
