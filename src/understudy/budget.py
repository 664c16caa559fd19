"""How many steps fit into a time: a few discarded steps are timed, once, before step 0.

Sources that fill a pool say so in a fact of their batches, the share that is filled ("pool").
Steps that fill cost more than those that do not; how many of them there will be is the inverse
of what one of them adds. So steps = (budget - spent - filling) / (time of a plain step).
A pool that grows too seldom to be seen growing tells its cost at the first step alone: what that
took is filling, and what it will take to fill the rest is shared out among the steps planned.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from understudy.fit import FitSettings

# Seconds, from wherever: of the wall, or of the processor where a machine has other work as well.
Clock = Callable[[], float]

WARM_UP = 20
POOL = "pool"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of a plain step, of all that fills pools, and what was spent to find out."""

    step: float
    filling: float
    spent: float


def steps_within(budget: float, timing: Timing) -> int:
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
) -> Timing:
    """Return what steps cost, from at most 20 of them.

    Args:
        train: runs the loop on copies of all it changes, calling the lap after each step.
    """
    lap = Lap(clock)
    train(replace(settings, steps=WARM_UP, log_every=1), lap)
    return lap.timing(settings.steps)


class Lap:
    """A journal that remembers when each step ended and how full the pool was."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self._steps: list[tuple[float, float]] = []

    def __call__(self, figures: dict[str, Any]) -> None:
        now = self._clock()
        self._steps.append((now - self._last, figures["facts"].get(POOL, 1.0)))
        self._last = now

    def timing(self, planned: int) -> Timing:
        """Return what was seen.

        Args:
            planned: steps for which the pool's size was chosen.
        """
        # The first steps pay for memory and for kernels chosen on first sight.
        pairs = list(itertools.pairwise(self._steps))[min(4, len(self._steps) - 2) :]
        rows = [(seconds, full - before) for (_, before), (seconds, full) in pairs]
        plain = [seconds for seconds, more in rows if more <= 0]
        fills = [(seconds, more) for seconds, more in rows if more > 0]
        step = statistics.median(plain or [seconds for seconds, _ in rows])
        filling = 0.0
        if plain and fills:
            extra = statistics.mean(seconds for seconds, _ in fills) - step
            gain = statistics.mean(more for _, more in fills)
            filling = max(extra, 0.0) * (1 - self._steps[-1][1]) / gain
        elif self._steps[-1][1] < 1:
            seconds, full = self._steps[0]
            filling = max(seconds - step, 0.0)
            step += filling * (1 - full) / full / planned
        return Timing(step=step, filling=filling, spent=self._last - self._began)
