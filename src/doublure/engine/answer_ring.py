"""A ring of views with teacher outputs, reused in new combinations.

The teacher's forward pass is a large part of a step. Its outputs for the same views do not change,
so the last batches are stored with them. At step s

    s < m or s % reuse = 0      a new batch is drawn, used, and stored in the ring
    else                        B / m random rows of each of m stored batches are used

with m = 4 batches, or as many as fit. Every view is used `reuse` times on average. The source draws
with the steps 0, 1, 2, ...; its own intervals ("every") count these draws.

Views are rounded to bytes before the teacher's forward pass, so that stored views and outputs
correspond, and a checkpoint needs 3 KB for a colour view of 32 x 32 pixels. Outputs are not part of
it: a resumed run recomputes them batch by batch, with the same bits. Logits are stored as float32;
features as float16 over the largest magnitude of their batch, so that none overflows: the error of
a value is at most 2^-11 of itself, or 2^-25 of the largest. A new batch is used with its exact
outputs, a reused view with rounded ones.
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

# Number of stored batches that are combined into one.
_MIXED = 4
# Minimum number of batches to combine.
_LEAST = 2
_WAY_OUT = "leave the ring away"
# Fields of a batch with one row per view.
_FIELDS = ("labels", "index")


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Reuse of the teacher's outputs.

    Args:
        reuse: number of steps per batch of teacher outputs.
        views: maximum number of stored views, on each process.
        bytes: maximum memory of stored views and outputs, on each process.
    """

    reuse: int = 3
    views: int = 6144
    bytes: int = 512 * 2**20

    def __post_init__(self) -> None:
        for name in ("reuse", "views", "bytes"):
            positive(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class RingPlan:
    """A ring for batches of one size, with outputs of known shape.

    Args:
        batches: maximum number of stored batches; 0 if fewer than two fit: the ring is off.
        bytes_per_batch: memory of views and outputs.
    """

    reuse: int
    batch_size: int
    batches: int
    bytes_per_batch: int

    @property
    def mixed(self) -> int:
        """Number of stored batches that are combined into one."""
        return min(_MIXED, self.batches, self.batch_size)

    def is_drawn(self, step: int) -> bool:
        """Return whether the batch of a step is new; always true if the ring is off."""
        return not self.batches or step < self.mixed or step % self.reuse == 0

    def num_draws(self, steps: int) -> int:
        """Return the number of new batches in the first steps."""
        return sum(self.is_drawn(step) for step in range(steps))

    @property
    def note(self) -> str:
        """The memory of the ring, or why it is off."""
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
    """A stored batch.

    Args:
        kept: content for a checkpoint: views as bytes, labels and indices if there are any.
        output: the teacher's output.
        features: the teacher's features, each divided by its magnitude.
    """

    kept: Mapping[str, Tensor]
    output: Float[Tensor, "batch ..."]
    features: Mapping[str, Float[Tensor, "batch ..."]]
    magnitudes: Mapping[str, Float[Tensor, ""]]

    def __len__(self) -> int:
        return len(self.output)

    @property
    def num_bytes(self) -> int:
        """Its memory in bytes."""
        return sum(
            part.nbytes for part in (*self.kept.values(), self.output, *self.features.values())
        )

    def rows(self, rows: Tensor) -> Batch:
        """Return a batch of some rows."""
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
    """Return the size of a ring from the outputs for an example.

    Raises:
        ValueError: such batches cannot be reused row by row.
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
    """A stream of batches with teacher outputs, new or stored; a function of (seed, step, state).

    Args:
        ask: computes the teacher's outputs.
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
        """Return the content of the ring: batches, views, bytes."""
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
        """Return a combination of stored batches."""
        num_parts, size = self._plan.mixed, self._plan.batch_size
        parts = []
        for i, place in enumerate(torch.randperm(len(self._held), generator=rng)[:num_parts]):
            held = self._held[int(place)]
            count = (size + i) // num_parts  # their sum is the batch size
            rows = torch.randperm(len(held), generator=rng)[:count]
            parts.append(held.rows(rows.to(self._device, non_blocking=True)))
        return _joined(parts, self._metrics)


def to_bytes(images: Float[Tensor, "batch ..."]) -> UInt8[Tensor, "batch ..."]:
    """Return images in [0, 1] as bytes, on the same device."""
    return (images.clamp(0, 1) * 255).round().byte()


def to_images(values: UInt8[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Return bytes as images in [0, 1], on the same device."""
    return values.float() / 255


def _answered(batch: Batch, ask: Ask) -> Batch:
    """Return a batch of rounded views and the teacher's outputs for them."""
    _check(batch)
    images = to_images(to_bytes(batch.images))
    with torch.no_grad():
        answer = ask(images)
    if not isinstance(answer.output, Tensor):
        raise ValueError(
            f"a ring needs one output tensor per batch, but the teacher returns "
            f"{type(answer.output).__name__}; {_WAY_OUT}"
        )
    return dataclasses.replace(batch, views={"student": images, "teacher": images}, teacher=answer)


def _check(batch: Batch) -> None:
    """Raise unless a batch can be reused row by row."""
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
    """Return a batch with teacher outputs in its stored form."""
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
