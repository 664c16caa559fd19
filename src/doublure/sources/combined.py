"""Several sources side by side: each batch holds a share of images from each of them.

Of a batch of B images, source i brings n_i; the n_i add up to B and are B w_i, w_i its share,
rounded by largest remainders, at least one each where B allows it. They are the same at every step
and for every seed. Images stand in the order of the sources. Labels are kept where all sources have
them, as probabilities where one has those. What changes single images may stand inside; what mixes
images of a batch belongs around, where it sees them all.

A source's facts are handed on. Of a fact that several have, the first one's counts; but a pool is
as full as the emptiest, and a round begins as often as the most frequent.
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
    """Return whole numbers that add up to `count`, in proportion to the shares.

    Largest remainders, ties to the earlier one; nobody goes without where `count` allows it.
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
    """Source: others side by side in each batch.

    Args:
        sources: two or more, each opened with its own part of the batch.
        shares: of the batch, one for each source; only their proportion counts.
    """

    sources: tuple[Source, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise ValueError(
                f"combining takes two sources or more, got {len(self.sources)}; use it alone"
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
    """Streams whose batches are put together; the state is that of each."""

    def __init__(self, streams: Mapping[str, Stream], classes: int) -> None:
        self.streams = streams
        self._classes = classes

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return _joined(
            [stream.draw(step, student) for stream in self.streams.values()], self._classes
        )

    def state_dict(self) -> dict[str, Any]:
        return {name: stream.state_dict() for name, stream in self.streams.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, stream in self.streams.items():
            stream.load_state_dict(state[name])


def _joined(batches: Sequence[Batch], classes: int) -> Batch:
    """Return one batch of all images, in their order."""
    first = batches[0]
    if any(batch.mask is not None for batch in batches):
        raise ValueError("combining has no rule for masks; combine sources without")
    shapes = {tuple(batch.images.shape[1:]) for batch in batches}
    if len(shapes) > 1 or len({batch.size_factor for batch in batches}) > 1:
        raise ValueError(
            f"combined sources draw images of different sizes, {sorted(shapes)}; put what changes "
            "the size around Combined"
        )
    # Where both networks see one tensor, they go on to.
    shared = all(batch.views["student"] is batch.views["teacher"] for batch in batches)
    seen = torch.cat([batch.images for batch in batches])
    asked = seen if shared else torch.cat([batch.views["teacher"] for batch in batches])
    return Batch(
        views={"student": seen, "teacher": asked},
        labels=_labels([batch.labels for batch in batches], classes),
        size_factor=first.size_factor,
        metrics=_metrics([batch.metrics for batch in batches]),
    )


def _labels(labels: Sequence[Tensor | None], classes: int) -> Tensor | None:
    """Return all labels, of one kind; None where a source has none."""
    known = [part for part in labels if part is not None]
    if len(known) < len(labels):
        return None
    if any(part.is_floating_point() for part in known):
        known = [
            part if part.is_floating_point() else F.one_hot(part, classes).float() for part in known
        ]
    return torch.cat(known)


def _metrics(metrics: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return all facts; of one that several have the first, of pools and rounds the least."""
    merged: dict[str, Tensor] = {}
    for part in metrics:
        for name, value in part.items():
            if name in (POOL, ROUND) and name in merged:
                merged[name] = torch.minimum(merged[name], value.to(merged[name]))
            else:
                merged.setdefault(name, value)
    return merged
