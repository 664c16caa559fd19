"""Pooled filters: in steps with images of half the size, convolutions go by smaller filters.

Parameters, hooks and names stay as they are: a step replaces the `forward` of single layers, and
takes it away again, so that whoever evaluates the network sees the full one. BatchNorm:

    separate       a small step normalises by its own batch and leaves the running statistics alone
    shared         the running statistics are a mixture of both kinds of steps
    recalibrated   as shared, and at the end they are taken anew, over the last full batches
"""

import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.core.checks import one_of
from doublure.core.protocols import Batch
from doublure.nets.small_steps import SmallSteps

Filters = Literal["split", "mean", "max", "none"]
Statistics = Literal["separate", "shared", "recalibrated"]
# Full batches over which statistics are taken anew.
_CALIBRATION = 32


@dataclass(frozen=True, kw_only=True)
class PooledFilters:
    """Rule: what a step with images of half the size does to convolutions and BatchNorm.

    Args:
        pooling: how filters become smaller: split, mean or max; none keeps them.
        statistics: of BatchNorm: separate, shared or recalibrated.
    """

    pooling: Filters = "split"
    statistics: Statistics = "separate"

    def __post_init__(self) -> None:
        one_of("pooling", self.pooling, get_args(Filters))
        one_of("statistics", self.statistics, get_args(Statistics))

    def open(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, rng: torch.Generator
    ) -> "PooledFiltersHook":
        return PooledFiltersHook(student, self)

    def remarks(self, student: nn.Module, *, steps: int, optimizer: str) -> tuple[str, ...]:
        """Return what small steps cost; a network that cannot take them is refused here."""
        return self._steps_of(student).notes

    def _steps_of(self, student: nn.Module) -> SmallSteps:
        pooling = None if self.pooling == "none" else self.pooling
        return SmallSteps(student, pooling, own_statistics=self.statistics == "separate")


class PooledFiltersHook:
    """Makes the network small for a step, and counts operations and time of both kinds."""

    def __init__(self, student: nn.Module, settings: PooledFilters) -> None:
        self._student, self._settings = student, settings
        self._small_steps = settings._steps_of(student)
        self._small = False
        self._kept: deque[Tensor] = deque(maxlen=_CALIBRATION)
        # Of full and of small steps.
        self._counts = [0, 0]
        self._seconds: tuple[list[float], list[float]] = ([], [])
        self._last: float | None = None

    def before_step(self, step: int, batch: Batch) -> None:
        self._small = batch.size_factor < 1
        if self._small:
            self._small_steps.begin()
        elif self._settings.statistics == "recalibrated":
            self._kept.append(batch.images.detach())

    def after_step(self, step: int) -> None:
        self._small_steps.end()
        now = time.perf_counter()
        if self._last is not None:  # from step to step, with all that a step takes
            self._seconds[self._small].append(now - self._last)
        self._last = now
        self._counts[self._small] += 1

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        """Multiply-accumulates of the last step's convolutions, for one image."""
        operations = self._small_steps.operations[self._small]
        return {"operations": torch.tensor(float(operations))}

    @property
    def totals(self) -> Mapping[str, float]:
        """Counts and shares over the run; times are medians of either kind of step."""
        full, small = self._counts
        if not full + small:
            return {}
        share = small / (full + small)
        per_full, per_small = self._small_steps.operations
        found = {"small_steps": float(small)}
        found["operations_saved"] = share * (1 - per_small / per_full)
        if all(self._seconds):
            slow, quick = (statistics.median(seconds) for seconds in self._seconds)
            found |= {"full_step_seconds": slow, "small_step_seconds": quick}
            found["time_saved"] = share * (1 - quick / slow)
        return found

    def finish(self) -> nn.Module:
        """Return the network, with no layer replaced."""
        assert not self._small_steps.under_way
        if self._kept:
            _recalibrate(self._student, self._kept)
        return self._student

    def state_dict(self) -> dict[str, Any]:
        return {
            "counts": list(self._counts),
            "seconds": [list(seconds) for seconds in self._seconds],
            "kept": list(self._kept),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._counts = list(state["counts"])
        self._seconds = (list(state["seconds"][0]), list(state["seconds"][1]))
        self._kept = deque(state["kept"], maxlen=_CALIBRATION)


def _recalibrate(student: nn.Module, batches: "deque[Tensor]") -> None:
    """Let running statistics be the plain averages over some batches."""
    layers = [
        layer
        for layer in student.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]
    momenta = [layer.momentum for layer in layers]
    student.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for a plain average
        layer.train()
    with torch.no_grad():
        for images in batches:
            student(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    student.train()
