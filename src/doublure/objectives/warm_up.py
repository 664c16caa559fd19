"""Warm-up: the terms of a loss rise linearly to their full weight over the first steps.

At step n, counted from 0, the terms are multiplied by min(1, (n + 1) / steps).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from doublure.core.protocols import Batch, FeatureNames, Loss, LossTerms, Outputs, metrics_of
from doublure.objectives.weighted import notes_of


class WarmUp:
    """A wrapper of a loss whose terms rise linearly; its state is the number of steps taken."""

    def __init__(self, loss: Loss, steps: int) -> None:
        self._loss = loss
        self._steps = steps
        self._taken = 0

    @property
    def features(self) -> FeatureNames:
        """The layers that the inner loss needs."""
        return self._loss.features

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the inner loss."""
        return notes_of(self._loss)

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        """The metrics of the inner loss."""
        return metrics_of(self._loss)

    def parameters(self) -> Iterable[nn.Parameter]:
        return self._loss.parameters()

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        self._taken += 1
        share = min(1.0, self._taken / self._steps) if self._steps else 1.0
        terms = self._loss(student, teacher, batch)
        return {name: share * value for name, value in terms.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self._taken, "within": self._loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._taken = state["taken"]
        self._loss.load_state_dict(state["within"])
