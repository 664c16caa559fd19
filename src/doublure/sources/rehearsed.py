"""Rehearsal: labelled images of new classes with transfer images for the old ones.

A batch of B starts with round(share B) labelled images; the others come from the wrapped source,
with the label -1. The held-out split has images of that source only, to compare with the old
network.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.protocols import Batch, Source, Stream, StreamContext, image_batch
from doublure.core.seeding import child
from doublure.nets.network import Network
from doublure.objectives.continual import UNLABELLED


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """Source: batches of labelled new images and transfer images.

    Args:
        source: transfer images, for which the old network gives the targets.
        new: labelled images of the new classes.
        share: share of new images in a batch.
    """

    source: Source
    new: Source
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must be in (0, 1), got {self.share}")

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> Stream:
        if isinstance(teacher, Network):  # for its images are of the old classes only
            old = dataclasses.replace(context, contract=teacher.contract)
        else:
            old = context
        if context.split == "held_out":
            return self.source.open(old, teacher, rng)
        num_new = min(max(round(self.share * context.batch_size), 1), context.batch_size - 1)
        parts = []
        for name, source, where, size in (
            ("new", self.new, context, num_new),
            ("old", self.source, old, context.batch_size - num_new),
        ):
            place = dataclasses.replace(where, batch_size=size)
            parts.append(source.open(place, teacher, child(rng, name)))
        return RehearsedStream(*parts)


class RehearsedStream:
    """Stream that joins batches of two streams."""

    def __init__(self, new: Stream, old: Stream) -> None:
        self._new, self._old = new, old

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        new, old = self._new.draw(step, student), self._old.draw(step, student)
        if new.labels is None:
            raise ValueError("the new classes need labels; use labelled images")
        nothing = torch.full((len(old.images),), UNLABELLED, device=new.labels.device)
        metrics: dict[str, Tensor] = {**new.metrics, **old.metrics}
        return image_batch(
            torch.cat((new.images, old.images)),
            labels=torch.cat((new.labels, nothing)),
            metrics=metrics,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"new": self._new.state_dict(), "old": self._old.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._new.load_state_dict(state["new"])
        self._old.load_state_dict(state["old"])
