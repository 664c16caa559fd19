"""A ring of answered views: the teacher answers one batch in `reuse`; all are shown again, mixed.

The teacher's pass over a batch is a good part of a step. What it answered stays true of the same
views, so the last batches are held with their answers. At step s

    s < m or s % reuse = 0      a new batch is drawn, answered, shown, and put into the ring
    else                        B / m rows each of m held batches, chosen at random, are shown

with m = 4 batches, or as many as fit. Every view is shown `reuse` times on average. The source
is asked for its draws 0, 1, 2, ...; a pace of its own ("every") counts those, not steps.

Views are rounded to bytes before the teacher is asked, so what is held is what was answered, and a
checkpoint holds 3 KB a view of 32 x 32 pixels in colour. Answers are no part of it: a run that goes
on asks again, batch by batch as before, for the same bits. Logits are held as float32; features as
float16 over the largest magnitude of their batch, so that none overflows: the error of a value is
at most 2^-11 of itself, or 2^-25 of the largest. A new batch is shown with its answer as given; a
view shown again, with its answer rounded so.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from doublure.core.checks import positive
from doublure.core.protocols import ROUND, Batch, Outputs, Stream, StreamContext, image_batch
from doublure.core.seeding import child

Ask = Callable[[Tensor], Outputs]

# From how many held batches one is put together.
_MIXED = 4
# With fewer there is nothing to combine.
_LEAST = 2
_WAY_OUT = "leave the ring away"
# Of a batch, beside its views: one row a view.
_FIELDS = ("labels", "index")


@dataclass(frozen=True, kw_only=True)
class Ring:
    """How answers are reused.

    Args:
        reuse: how many steps a batch of answers is good for.
        views: held at most, on each process.
        bytes: of views and answers held at most, on each process.
    """

    reuse: int = 3
    views: int = 6144
    bytes: int = 512 * 2**20

    def __post_init__(self) -> None:
        for name in ("reuse", "views", "bytes"):
            positive(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class RingPlan:
    """A ring for batches of one size, whose answers have been seen.

    Args:
        batches: held at most; 0 where fewer than two fit, and the ring is off.
        bytes_per_batch: of views and answers.
    """

    reuse: int
    batch_size: int
    batches: int
    bytes_per_batch: int

    @property
    def mixed(self) -> int:
        """From how many held batches one is put together."""
        return min(_MIXED, self.batches, self.batch_size)

    def is_drawn(self, step: int) -> bool:
        """Whether the batch of a step is new; all are where the ring is off."""
        return not self.batches or step < self.mixed or step % self.reuse == 0

    def num_draws(self, steps: int) -> int:
        """Return how many of the first steps draw a new batch."""
        return sum(self.is_drawn(step) for step in range(steps))

    @property
    def note(self) -> str:
        """What is held, or why nothing is."""
        size = f"{self.bytes_per_batch / 2**20:.1f} MiB a batch of {self.batch_size}"
        if not self.batches:
            return (
                f"ring: off, as two batches do not fit, at {size}; raise ring.bytes and "
                "ring.views or lower the batch size"
            )
        return (
            f"ring: the teacher answers one batch in {self.reuse}; at most {self.batches} are "
            f"held, {size}, {self.batches * self.bytes_per_batch / 2**20:.0f} MiB in all"
        )


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A batch in the ring.

    Args:
        kept: what a checkpoint holds: views as bytes, and labels and indices where there are any.
        output: the teacher's.
        features: the teacher's features, each over its magnitude.
    """

    kept: Mapping[str, Tensor]
    output: Float[Tensor, "batch ..."]
    features: Mapping[str, Float[Tensor, "batch ..."]]
    magnitudes: Mapping[str, Float[Tensor, ""]]

    def __len__(self) -> int:
        return len(self.output)

    @property
    def num_bytes(self) -> int:
        """How much memory it takes."""
        return sum(
            part.nbytes for part in (*self.kept.values(), self.output, *self.features.values())
        )

    def rows(self, rows: Tensor) -> Batch:
        """Return some of its rows as a batch."""
        features = {
            name: value[rows].float() * self.magnitudes[name]
            for name, value in self.features.items()
        }
        fields = {name: self.kept[name][rows] for name in _FIELDS if name in self.kept}
        images = to_images(self.kept["views"][rows])
        return image_batch(
            images, teacher=Outputs(output=self.output[rows], features=features), **fields
        )


def plan_ring(ring: Ring, example: Batch, ask: Ask, batch_size: int) -> RingPlan:
    """Return how much of a ring fits, counted from the answer to an example.

    Raises:
        ValueError: such batches cannot be shown again row by row.
    """
    held = _hold(_answered(example, ask))
    size = -(-held.num_bytes * batch_size // len(held))
    batches = min(ring.views // batch_size, ring.bytes // size)
    return RingPlan(
        reuse=ring.reuse,
        batch_size=batch_size,
        batches=batches if batches >= _LEAST else 0,
        bytes_per_batch=size,
    )


class RingStream:
    """A stream whose batches carry an answer, new or held; a function of (seed, step, state).

    Args:
        ask: puts images to the teacher.
    """

    def __init__(
        self, stream: Stream, ask: Ask, plan: RingPlan, context: StreamContext, rng: torch.Generator
    ) -> None:
        self._stream, self._ask, self._plan, self._device = stream, ask, plan, context.device
        self._rng = child(rng, context.split, context.rank)
        self._held: list[_Held] = []
        self._drawn = 0
        self._metrics: dict[str, Tensor] = {}

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        if len(self._held) < self._plan.mixed or self._plan.is_drawn(step):
            return self._draw_new(student)
        return self._draw_held(child(self._rng, step))

    def stated(self) -> dict[str, int]:
        """Return what is held: batches, views, bytes."""
        return {
            "batches": len(self._held),
            "views": sum(len(held) for held in self._held),
            "bytes": sum(held.num_bytes for held in self._held),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "source": self._stream.state_dict(),
            "drawn": self._drawn,
            "metrics": _copied(self._metrics, torch.device("cpu")),
            "held": [_copied(held.kept, torch.device("cpu")) for held in self._held],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state["source"])
        self._drawn, self._metrics = state["drawn"], _copied(state["metrics"], self._device)
        self._held = []
        for kept in state["held"]:
            fields = _copied(kept, self._device)
            batch = image_batch(to_images(fields.pop("views")), **fields)
            self._held.append(_hold(_answered(batch, self._ask)))

    def _draw_new(self, student: nn.Module | None) -> Batch:
        batch = _answered(self._stream.draw(self._drawn, student), self._ask)
        self._metrics = dict(batch.metrics)
        if ROUND in self._metrics:  # said in draws
            self._metrics[ROUND] = self._metrics[ROUND] * self._plan.reuse
        place = self._drawn % self._plan.batches
        self._held[place : place + 1] = [_hold(batch)]
        self._drawn += 1
        return dataclasses.replace(batch, metrics=self._metrics)

    def _draw_held(self, rng: torch.Generator) -> Batch:
        """Return a batch put together from some of the held ones."""
        num_parts, size = self._plan.mixed, self._plan.batch_size
        parts = []
        for i, place in enumerate(torch.randperm(len(self._held), generator=rng)[:num_parts]):
            held = self._held[int(place)]
            count = (size + i) // num_parts  # which add up to the size
            rows = torch.randperm(len(held), generator=rng)[:count]
            parts.append(held.rows(rows.to(self._device, non_blocking=True)))
        return _joined(parts, self._metrics)


def to_bytes(images: Float[Tensor, "batch ..."]) -> UInt8[Tensor, "batch ..."]:
    """Return images in [0, 1] as bytes, where they are."""
    return (images.clamp(0, 1) * 255).round().byte()


def to_images(values: UInt8[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Return bytes as images in [0, 1], where they are."""
    return values.float() / 255


def _answered(batch: Batch, ask: Ask) -> Batch:
    """Return a batch of rounded views and the teacher's answer to them."""
    _check(batch)
    images = to_images(to_bytes(batch.images))
    with torch.no_grad():
        answer = ask(images)
    if not isinstance(answer.output, Tensor):
        raise ValueError(
            "a ring holds one tensor of answers a batch, but the teacher answers with "
            f"{type(answer.output).__name__}; {_WAY_OUT}"
        )
    return dataclasses.replace(batch, views={"student": images, "teacher": images}, teacher=answer)


def _check(batch: Batch) -> None:
    """Raise unless a batch can be shown again row by row."""
    seen = batch.views["student"]
    if not isinstance(seen, Tensor) or not seen.is_floating_point() or seen.dim() != 4:
        raise ValueError(f"a ring holds images, but the source shows other views; {_WAY_OUT}")
    if batch.views["teacher"] is not seen:
        raise ValueError(
            f"a ring holds one view of an image, but student and teacher see two; {_WAY_OUT}"
        )
    if batch.mask is not None:
        raise ValueError(f"a ring has no rule for masks; {_WAY_OUT}")
    if batch.size_factor != 1:
        raise ValueError(f"a ring holds images of one size, but they change theirs; {_WAY_OUT}")
    if batch.teacher is not None:
        raise ValueError(
            f"a ring asks the teacher itself, but the source has asked already; {_WAY_OUT}"
        )


def _hold(batch: Batch) -> _Held:
    """Return an answered batch as it is held."""
    assert batch.teacher is not None
    kept = {"views": to_bytes(batch.images)}
    kept |= {name: part for name in _FIELDS if (part := getattr(batch, name)) is not None}
    magnitudes = {
        name: value.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
        for name, value in batch.teacher.features.items()
    }
    features = {name: (v / magnitudes[name]).half() for name, v in batch.teacher.features.items()}
    return _Held(kept=kept, output=batch.teacher.output, features=features, magnitudes=magnitudes)


def _joined(parts: Sequence[Batch], metrics: Mapping[str, Tensor]) -> Batch:
    answers = [part.teacher for part in parts if part.teacher is not None]
    fields = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in _FIELDS
        if getattr(parts[0], name) is not None
    }
    features = {
        name: torch.cat([answer.features[name] for answer in answers])
        for name in answers[0].features
    }
    return image_batch(
        torch.cat([part.images for part in parts]),
        teacher=Outputs(output=torch.cat([answer.output for answer in answers]), features=features),
        metrics=metrics,
        **fields,
    )


def _copied(values: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.detach().to(device, copy=True) for name, value in values.items()}
