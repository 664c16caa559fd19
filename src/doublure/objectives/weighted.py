"""A weighted sum of objectives, and the function that opens any objective as a loss.

L = sum_i w_i L_i over the terms; each term keeps its name, so that each has its own curve.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.checks import positive
from doublure.core.protocols import (
    Batch,
    FeatureNames,
    HasNotes,
    Loss,
    LossTerms,
    Objective,
    Outputs,
    StatelessObjective,
    metrics_of,
)
from doublure.core.seeding import child

AnyObjective = Objective | StatelessObjective


class Stateless:
    """The loss of an objective that needs no state, no features and no parameters."""

    features = FeatureNames()

    def __init__(self, objective: StatelessObjective) -> None:
        self._objective = objective

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        return self._objective(student, teacher, batch)  # type: ignore[arg-type]  # an objective on labels needs no teacher

    def parameters(self) -> Iterable[nn.Parameter]:
        return ()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"this objective has no state, got {sorted(state)}")


def open_loss(
    objective: AnyObjective,
    student: nn.Module,
    teacher: nn.Module | None,
    example: Batch,
    rng: torch.Generator,
) -> Loss:
    """Return the loss of any objective; a stateless objective is wrapped."""
    if isinstance(objective, Objective):
        return objective.open(student, teacher, example, rng)
    return Stateless(objective)


def notes_of(loss: Loss) -> tuple[str, ...]:
    """Return the notes that a loss has for the log before the first step, () for most losses."""
    return loss.notes if isinstance(loss, HasNotes) else ()


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Objective: a weighted sum of others.

    Args:
        terms: pairs of a weight and an objective.
    """

    terms: tuple[tuple[float, AnyObjective], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("a weighted sum needs at least one term")
        for weight, _ in self.terms:
            positive("weight", weight)

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> "WeightedLoss":
        return WeightedLoss(
            [
                (weight, open_loss(part, student, teacher, example, child(rng, "term", i)))
                for i, (weight, part) in enumerate(self.terms)
            ]
        )


class WeightedLoss:
    """The loss of a weighted sum."""

    def __init__(self, parts: list[tuple[float, Loss]]) -> None:
        self._parts = parts

    @property
    def features(self) -> FeatureNames:
        # Without duplicates, in order.
        needed = [part.features for _, part in self._parts]
        return FeatureNames(
            student=tuple(dict.fromkeys(name for names in needed for name in names.student)),
            teacher=tuple(dict.fromkeys(name for names in needed for name in names.teacher)),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(note for _, part in self._parts for note in notes_of(part))

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        return {name: value for _, part in self._parts for name, value in metrics_of(part).items()}

    def parameters(self) -> Iterable[nn.Parameter]:
        return (parameter for _, part in self._parts for parameter in part.parameters())

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        terms: LossTerms = {}
        for weight, part in self._parts:
            for name, value in part(student, teacher, batch).items():
                if name in terms:
                    raise ValueError(
                        f"two objectives of the sum have a term '{name}'; use only one of them"
                    )
                terms[name] = weight * value
        return terms

    def state_dict(self) -> dict[str, Any]:
        return {str(i): part.state_dict() for i, (_, part) in enumerate(self._parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, (_, part) in enumerate(self._parts):
            part.load_state_dict(state[str(i)])
