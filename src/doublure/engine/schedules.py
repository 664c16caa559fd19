"""Schedules: the learning rate as a function of the step.

Cosine: Loshchilov and Hutter, arXiv:1608.03983, eq. 5, after a linear warm-up; with restarts, each
period longer by a factor. One cycle: Smith and Topin, arXiv:1708.07120. Milestones: He et al.,
arXiv:1512.03385, sec. 4.2.

Where the number of steps is corrected on the way, the rest of the first plan is stretched or
shortened evenly over the rest of the steps (`progress_at`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from doublure.core.checks import positive, share


@runtime_checkable
class Schedule(Protocol):
    """The learning rate as a function of the step, counted from 0."""

    def rate_at(self, peak: float, step: int, steps: int) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Schedule: linear warm-up over a share of the steps, then a half cosine down to zero.

    Args:
        warmup: share of the steps in which the rate rises from zero.
    """

    warmup: float = 0.05

    def __post_init__(self) -> None:
        share("warmup", self.warmup)

    def rate_at(self, peak: float, step: int, steps: int) -> float:
        rising = self.warmup * steps
        if step < rising:
            return peak * (step + 1) / (rising + 1)
        done = (step - rising) / max(steps - rising, 1)
        return peak * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class CosineRestarts:
    """Schedule: periods of a half cosine, each from the peak to zero.

    Args:
        period: steps of the first period.
        growth: ratio of the lengths of consecutive periods.
    """

    period: int = 1000
    growth: float = 2.0

    def __post_init__(self) -> None:
        positive("period", self.period)
        if self.growth < 1:
            raise ValueError(f"growth must be at least 1, got {self.growth}")

    def rate_at(self, peak: float, step: int, steps: int) -> float:
        begin, length = 0.0, float(self.period)
        while step >= begin + length:
            begin, length = begin + length, length * self.growth
        return peak * 0.5 * (1 + math.cos(math.pi * (step - begin) / length))


@dataclass(frozen=True, kw_only=True)
class Milestones:
    """Schedule: the peak, times a factor after each milestone.

    Args:
        shares: milestones as shares of the steps.
        factor: factor of the rate at each milestone.
    """

    shares: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        for place in self.shares:
            share("shares", place)
        positive("factor", self.factor)

    def rate_at(self, peak: float, step: int, steps: int) -> float:
        passed = sum(step >= place * steps for place in self.shares)
        return float(peak * self.factor**passed)


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Schedule: from 1/25 of the peak to it over 30 % of the steps, then to zero, along cosines."""

    def rate_at(self, peak: float, step: int, steps: int) -> float:
        progress = step / steps
        if progress < 0.3:
            low = peak / 25
            return low + (peak - low) * 0.5 * (1 - math.cos(math.pi * progress / 0.3))
        return peak * 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7))


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Schedule: the peak at every step."""

    def rate_at(self, peak: float, step: int, steps: int) -> float:
        return peak


def progress_at(step: int, steps: int, replanned: Sequence[tuple[int, int]]) -> float:
    """Return the share of a run that is done before a step.

    Between two corrections at a and b, of which the plan is n steps long, it rises from p evenly to
        p + (1 - p) (b - a) / (n - a)

    Args:
        steps: of the run as it became.
        replanned: (step, steps) pairs: until that step, so many were planned.
    """
    done, since = 0.0, 0
    for until, planned in (*replanned, (step, steps)):
        here = min(step, until)
        done += (1 - done) * (here - since) / max(planned - since, 1)
        since = until
        if step <= until:
            break
    return done


SCHEDULES = (Cosine, CosineRestarts, Milestones, OneCycle, Constant)
