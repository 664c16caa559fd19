"""A budget's steps, corrected on the way: what steps really take decides how many follow.

A host that gets busier, or was busy while a few steps were timed, makes a plan wrong. So twenty
times in a run, with p the mean seconds of the latest steps and L what is left of the time,

    steps = done + L / p

A pool that grows makes some steps dearer. With e seconds more for each growth, g growths a step and
n of them to come, it is L / (p + g e) where the steps end before the pool is full, and otherwise
(L - n e) / p.

A correction of less than 3 % is not worth one. Each is written into the recipe
(`FitSettings.replanned`) before the next step: a run that is killed, or run again from its recipe,
makes the same student.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from doublure.core.protocols import POOL
from doublure.engine.budget import Clock
from doublure.engine.fit import FitSettings
from doublure.engine.schedules import progress_at

_CHECKS = 20
# What comes now and then, such as an attack or a turn of a generator, comes in so many steps.
_LEAST_STEPS = 20
_WORTH_IT = 0.03


class StepRecord(NamedTuple):
    """What a step took, and what it added to the pool, of all that goes in."""

    seconds: float
    growth: float


class Pacer:
    """Corrects the steps of one training; see `fit.Pacing`.

    Args:
        deadline: when the training shall end, by `clock`.
        adopt: is told corrected settings before a step goes by them, and returns those that all
            processes go by.
        device: whose work is waited for before the clock is read.
    """

    def __init__(
        self,
        deadline: float,
        clock: Clock,
        adopt: Callable[[FitSettings], FitSettings],
        device: torch.device,
    ) -> None:
        self._deadline, self._clock, self._adopt, self._device = deadline, clock, adopt, device
        self._records: list[StepRecord] = []
        self._full, self._last = 1.0, math.nan
        self.steps: int | None = None  # of the corrected plan, once there is one

    def __call__(
        self, step: int, metrics: Mapping[str, Tensor], settings: FitSettings
    ) -> FitSettings:
        """Return the settings to go on by after `step` steps."""
        full = float(metrics[POOL]) if POOL in metrics else self._full
        checked = _is_checked(step, settings)
        if checked and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = self._clock()
        if not math.isnan(self._last):  # the first step also prepares
            self._records.append(StepRecord(now - self._last, max(full - self._full, 0.0)))
        self._full, self._last = full, now
        if not checked:
            return settings
        steps = steps_left(self._records, self._deadline - now, 1 - full)
        planned = settings.steps if steps is None else step + steps
        made = replace(
            settings, steps=planned, replanned=(*settings.replanned, (step, settings.steps))
        )
        worth_it = abs(planned - settings.steps) > _WORTH_IT * settings.steps
        adopted = self._adopt(made if worth_it else settings)
        self.steps = adopted.steps
        return adopted


def steps_left(records: list[StepRecord], seconds: float, pool: float) -> int | None:
    """Return how many steps fit into the time left, at least one; None where nobody can tell yet.

    Args:
        records: of the steps so far, without the first.
        pool: share of the pool that is still to come.
    """
    recent = records[-max(_LEAST_STEPS, len(records) // 4) :]
    plain = [record.seconds for record in recent if not record.growth]
    if len(recent) < _LEAST_STEPS // 2 or not plain:
        return None
    step = sum(plain) / len(plain)
    grown = [record for record in records if record.growth]
    if not grown or pool <= 0:
        return max(1, int(seconds / step))
    extra = max(sum(record.seconds for record in grown) / len(grown) - step, 0.0)
    each = sum(record.growth for record in grown) / len(grown)
    to_come, rate = pool / each, len(grown) / len(records)
    steps = seconds / (step + rate * extra)
    if rate * steps > to_come:
        steps = (seconds - to_come * extra) / step
    return max(1, int(steps))


def _is_checked(step: int, settings: FitSettings) -> bool:
    done, before = (progress_at(at, settings.steps, settings.replanned) for at in (step, step - 1))
    return int(_CHECKS * done) > int(_CHECKS * before)
