"""Several sources combined: each batch has a share of images from each of them.

In a batch of B images, n_i come from source i. The n_i add up to B and are B w_i, with w_i the
share of the source, rounded by largest remainders, and at least 1 if B allows it. They are the same
at every step and for every seed. Images are in the order of the sources. Labels are kept if all
sources have them, as probabilities if one source has those. Wrappers that change single images can
be inside; a wrapper that mixes the images of a batch should be outside, so that it mixes all.

The metrics of all sources are kept. If several have the same metric, the first value is used; for
`pool` (how full) and `round` (steps of a round) it is the smallest.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doublure.core.checks import positive
from doublure.core.protocols import POOL, ROUND, Batch, Source, Stream, StreamContext
from doublure.core.seeding import child


def divide(count: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Return integers that add up to `count`, in proportion to the shares.

    Rounded by largest remainders, ties to the earlier one; at least 1 each if `count` allows it.
    """
    total = sum(shares)
    exact = [count * share / total for share in shares]
    parts = [int(value) for value in exact]
    order = sorted(range(len(shares)), key=lambda i: (parts[i] - exact[i], i))
    for i in order[: count - sum(parts)]:
        parts[i] += 1
    while 0 in parts and max(parts) > 1:
        parts[parts.index(max(parts))] -= 1
        parts[parts.index(0)] += 1
    return tuple(parts)


@dataclass(frozen=True, kw_only=True)
class Combined:
    """Source: several sources combined in each batch.

    Args:
        sources: at least two sources; each draws its own part of the batch.
        shares: share of the batch for each source; only their proportions matter.
    """

    sources: tuple[Source, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise ValueError(
                f"combining needs at least two sources, got {len(self.sources)}; use it directly"
            )
        if len(self.shares) != len(self.sources):
            raise ValueError(
                f"shares must have one value per source ({len(self.sources)}), "
                f"got {len(self.shares)}"
            )
        for share in self.shares:
            positive("a share", share)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "CombinedStream":
        counts = divide(context.batch_size, self.shares)
        streams = {
            str(i): source.open(
                dataclasses.replace(context, batch_size=count), teacher, child(rng, "part", i)
            )
            for i, (source, count) in enumerate(zip(self.sources, counts, strict=True))
            if count
        }
        return CombinedStream(streams, context.contract.classes)


class CombinedStream:
    """Concatenates the batches of several streams; its state is the states of all of them."""

    def __init__(self, streams: Mapping[str, Stream], classes: int) -> None:
        self.streams = streams
        self._classes = classes

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return _concatenate(
            [stream.draw(step, student) for stream in self.streams.values()], self._classes
        )

    def state_dict(self) -> dict[str, Any]:
        return {name: stream.state_dict() for name, stream in self.streams.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, stream in self.streams.items():
            stream.load_state_dict(state[name])


def _concatenate(batches: Sequence[Batch], classes: int) -> Batch:
    """Return one batch of all images, in their order."""
    first = batches[0]
    if any(batch.mask is not None for batch in batches):
        raise ValueError("masks cannot be combined; combine sources without masks")
    shapes = {tuple(batch.images.shape[1:]) for batch in batches}
    if len(shapes) > 1 or len({batch.size_factor for batch in batches}) > 1:
        raise ValueError(
            f"combined sources draw images of different sizes, {sorted(shapes)}; change the size "
            "outside of Combined"
        )
    # If both networks share one tensor in all batches, they also share the result.
    shared = all(batch.views["student"] is batch.views["teacher"] for batch in batches)
    student_view = torch.cat([batch.images for batch in batches])
    teacher_view = (
        student_view if shared else torch.cat([batch.views["teacher"] for batch in batches])
    )
    return Batch(
        views={"student": student_view, "teacher": teacher_view},
        labels=_labels([batch.labels for batch in batches], classes),
        size_factor=first.size_factor,
        metrics=_metrics([batch.metrics for batch in batches]),
    )


def _labels(labels: Sequence[Tensor | None], classes: int) -> Tensor | None:
    """Return all labels, in the same format; None if a source has no labels."""
    known = [part for part in labels if part is not None]
    if len(known) < len(labels):
        return None
    if any(part.is_floating_point() for part in known):
        known = [
            part if part.is_floating_point() else F.one_hot(part, classes).float() for part in known
        ]
    return torch.cat(known)


def _metrics(metrics: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return all metrics: the first value of each name, for pools and rounds the smallest."""
    merged: dict[str, Tensor] = {}
    for part in metrics:
        for name, value in part.items():
            if name in (POOL, ROUND) and name in merged:
                merged[name] = torch.minimum(merged[name], value.to(merged[name]))
            else:
                merged.setdefault(name, value)
    return merged
