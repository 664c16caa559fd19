"""How many steps fit into a time: a few discarded steps are timed, once, before step 0.

Sources that fill a pool say so in a fact of their batches, the share that is filled ("pool").
Steps that fill cost more than those that do not; how many of them there will be is the inverse
of what one of them adds. So steps = (budget - spent - filling) / (time of a plain step).
A pool that grows too seldom to be seen growing tells its cost at the first step alone: what that
took is filling, and what it will take to fill the rest is shared out among the steps planned.
Sources that work in rounds say in another fact how many steps lie between two of them ("round");
what such a step takes beyond the others is shared out among that many.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from doublure.core.protocols import POOL, ROUND
from doublure.engine.fit import FitSettings

# Seconds, from wherever: of the wall, or of the processor where a machine has other work as well.
Clock = Callable[[], float]

WARM_UP = 20


@dataclass(frozen=True, kw_only=True)
class StepTiming:
    """Seconds of a plain step, of all that fills pools, and what was spent to find out.

    Args:
        batch: seconds of one more batch in a pool beyond a plain step; 0 where none was seen.
        first: seconds of the first step.
    """

    step: float
    filling: float
    spent: float
    batch: float = field(default=0.0, compare=False)
    first: float = field(default=0.0, compare=False)


class EnoughTimedError(Exception):
    """The steps timed so far tell what is asked; no more time should go into it."""


def steps_within(budget: float, timing: StepTiming) -> int:
    """Return how many steps fit into `budget` seconds.

    Raises:
        ValueError: if not one does.
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
    """Return what steps cost, from at most 20 of them.

    Args:
        train: runs the loop on copies of all it changes, calling the lap after each step.
        limit: seconds after which no further step is timed, once six are.
    """
    lap = Lap(clock, limit)
    with contextlib.suppress(EnoughTimedError):
        train(replace(settings, steps=WARM_UP, log_every=1), lap)
    return lap.timing(settings.steps)


class _Step(NamedTuple):
    seconds: float
    full: float  # the pool behind it
    more: float  # of the pool than before it
    every: int  # steps from one round to the next, of which this begins one; 0 if it does not


class Lap:
    """A metrics log that remembers when each step ended and how full the pool was."""

    def __init__(self, clock: Clock = time.perf_counter, limit: float = float("inf")) -> None:
        self._clock, self._limit = clock, limit
        self._steps: list[_Step] = []
        self.restart()

    def restart(self) -> None:
        """Count from now on; what came before the first step was no step."""
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
        """Return what was seen.

        Args:
            planned: steps for which the pool's size was chosen.
        """
        first, last = self._steps[0], self._steps[-1]
        # The first steps pay for memory and for kernels chosen on first sight.
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
