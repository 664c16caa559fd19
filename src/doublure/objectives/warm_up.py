"""Warm-up: the terms of a criterion rise from nothing to their weight over its first steps.

At step n, counted from 0, terms are multiplied by min(1, (n + 1) / steps).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from doublure.core.protocols import Batch, Criterion, TapNames, Terms, Trace, facts_of
from doublure.objectives.weighted import notes_of


class WarmUp:
    """A criterion whose terms rise linearly; its state is the number of steps taken."""

    def __init__(self, criterion: Criterion, steps: int) -> None:
        self._criterion = criterion
        self._steps = steps
        self._taken = 0

    @property
    def taps(self) -> TapNames:
        """The layers that the criterion within wants to see."""
        return self._criterion.taps

    @property
    def notes(self) -> tuple[str, ...]:
        """What the criterion within tells."""
        return notes_of(self._criterion)

    @property
    def facts(self) -> Mapping[str, Tensor]:
        """What the criterion within measured."""
        return facts_of(self._criterion)

    def parameters(self) -> Iterable[nn.Parameter]:
        return self._criterion.parameters()

    def __call__(self, student: Trace, teacher: Trace | None, batch: Batch) -> Terms:
        self._taken += 1
        share = min(1.0, self._taken / self._steps) if self._steps else 1.0
        terms = self._criterion(student, teacher, batch)
        return {name: share * value for name, value in terms.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self._taken, "within": self._criterion.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._taken = state["taken"]
        self._criterion.load_state_dict(state["within"])
