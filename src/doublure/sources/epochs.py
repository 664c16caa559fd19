"""Epochs: the endless row of a set's items, each epoch a permutation drawn from seed and number.

What stands at a place of the row is a function of the seed and the place, so nothing needs
remembering.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from doublure.core.seeding import child


class Epochs:
    """Shuffled epochs through some places of a set."""

    def __init__(self, places: Int64[Tensor, " places"], rng: torch.Generator) -> None:
        self._places, self._rng = places, rng
        # A cache of what the seed and the epoch say anyway.
        self._epoch, self._order = -1, places

    def __len__(self) -> int:
        """Return how many items an epoch has."""
        return len(self._places)

    def at(self, start: int, stop: int) -> Int64[Tensor, " batch"]:
        """Return which items stand from `start` to before `stop` in the row."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, len(self))
            part = self._shuffled(epoch)[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        return torch.cat(parts)

    def _shuffled(self, epoch: int) -> Int64[Tensor, " places"]:
        if epoch != self._epoch:
            order = torch.randperm(len(self), generator=child(self._rng, "epoch", epoch))
            self._epoch, self._order = epoch, self._places[order]
        return self._order
