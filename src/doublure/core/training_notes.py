"""What rules and transforms say of a training: before its first step, and of all its steps."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class RemarksOnTraining(Protocol):
    """A rule or transform with something to say of the training it is part of."""

    def remarks(self, student: nn.Module, *, steps: int, optimizer: str) -> tuple[str, ...]:
        """Return what a person should know before step 0, one sentence each.

        Args:
            optimizer: by its kind.
        """


@runtime_checkable
class HasTotals(Protocol):
    """A hook with figures of the whole run for its summary."""

    @property
    def totals(self) -> Mapping[str, float]: ...
