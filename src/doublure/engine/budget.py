"""The number of steps in a time budget: a few discarded steps are timed once, before step 0.

A source with a pool reports its filled share as a metric of its batches ("pool"). Steps that fill
cost more than others; their number is the inverse of the share that one of them adds. So steps =
(budget - spent - filling) / (time of a plain step). If a pool grows so rarely that no growth is
measured, the time of the first step is the cost of filling, and the cost of the rest is distributed
over the planned steps. A source that works in rounds reports the number of steps between two of
them as another metric ("round"); the additional time of such a step is distributed over that
number.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from doublure.core.protocols import POOL, ROUND
from doublure.engine.fit import FitSettings

# A clock in seconds: wall time, or processor time on a shared machine.
Clock = Callable[[], float]

WARM_UP = 20


@dataclass(frozen=True, kw_only=True)
class StepTiming:
    """Seconds of a plain step, of filling pools, and of the measurement itself.

    Args:
        batch: additional seconds of a step that adds a batch to a pool; 0 if none was measured.
        first: seconds of the first step.
    """

    step: float
    filling: float
    spent: float
    batch: float = field(default=0.0, compare=False)
    first: float = field(default=0.0, compare=False)


class EnoughTimedError(Exception):
    """Stops the timing: the steps so far are enough."""


def steps_within(budget: float, timing: StepTiming) -> int:
    """Return the number of steps in `budget` seconds.

    Raises:
        ValueError: if not even one step fits.
    """
    left = budget - timing.spent - timing.filling
    steps = int(left / timing.step)
    if steps < 1:
        raise ValueError(
            f"a budget of {budget:.0f}s leaves no step: getting ready took {timing.spent:.0f}s, "
            f"filling the pool would take {timing.filling:.0f}s, a step {timing.step:.2f}s; "
            "raise --budget or give --steps"
        )
    return steps


def time_steps(
    train: Callable[[FitSettings, "Lap"], None],
    settings: FitSettings,
    clock: Clock = time.perf_counter,
    limit: float = float("inf"),
) -> StepTiming:
    """Return the timing of steps, from at most 20 of them.

    Args:
        train: runs the loop on copies and calls the lap after each step.
        limit: seconds after which no further step is timed, after at least six.
    """
    lap = Lap(clock, limit)
    with contextlib.suppress(EnoughTimedError):
        train(replace(settings, steps=WARM_UP, log_every=1), lap)
    return lap.timing(settings.steps)


class _Step(NamedTuple):
    seconds: float
    full: float  # filled share after the step
    more: float  # of the pool than before it
    every: int  # steps from one round to the next, of which this begins one; 0 if it does not


class Lap:
    """A metrics log that records the end of each step and the filled share of the pool."""

    def __init__(self, clock: Clock = time.perf_counter, limit: float = float("inf")) -> None:
        self._clock, self._limit = clock, limit
        self._steps: list[_Step] = []
        self.restart()

    def restart(self) -> None:
        """Start the clock: earlier work does not belong to a step."""
        self._began = self._last = self._clock()

    def __call__(self, line: dict[str, Any]) -> None:
        now, metrics = self._clock(), line["metrics"]
        full, every = metrics.get(POOL, 1.0), int(metrics.get(ROUND, 0))
        more = full - self._steps[-1].full if self._steps else 0.0
        begins = every > 0 and len(self._steps) % every == 0
        self._steps.append(_Step(now - self._last, full, more, every if begins else 0))
        self._last = now
        if now - self._began > self._limit and len(self._steps) > 5:
            raise EnoughTimedError

    def timing(self, planned: int) -> StepTiming:
        """Return the timing.

        Args:
            planned: number of steps for which the pool's size was chosen.
        """
        first, last = self._steps[0], self._steps[-1]
        # The first steps include memory allocation and the selection of kernels.
        steady = self._steps[min(5, len(self._steps) - 1) :]
        calm = [one for one in steady if not one.every] or steady
        still = [one.seconds for one in calm if one.more <= 0]
        fills = [one for one in calm if one.more > 0]
        plain = step = statistics.mean(still or [one.seconds for one in calm])
        filling = extra = 0.0
        if still and fills:
            extra = max(statistics.mean(one.seconds for one in fills) - plain, 0.0)
            filling = extra * (1 - last.full) / statistics.mean(one.more for one in fills)
        elif last.full < 1:
            filling = max(first.seconds - plain, 0.0)
            step += filling * (1 - first.full) / first.full / planned
        rounds = [one for one in self._steps if one.every]
        if rounds:
            filled = extra if rounds[-1].more > 0 else 0.0
            step += max(rounds[-1].seconds - plain - filled, 0.0) / rounds[-1].every
        return StepTiming(
            step=step,
            filling=filling,
            spent=self._last - self._began,
            batch=extra,
            first=first.seconds,
        )
