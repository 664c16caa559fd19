"""What a stage costs here: seconds of its steps, of its pool and of how its student begins.

Timing must not eat the budget it is for. So small batches are timed first, with short searches for
images, and what that takes is scaled up in proportion; whole batches are timed only where that is
expected to take less than a given share of the time.
"""

import copy
import dataclasses
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from doublure.core.protocols import parts_of
from doublure.engine.budget import WARM_UP, Clock, Lap, StepTiming, time_steps
from doublure.engine.fit import FitSettings
from doublure.engine.processes import ProcessGroup
from doublure.engine.recipe import Stage
from doublure.engine.source_edits import iterations_of, pool_of, small_trial
from doublure.engine.stage_opening import open_stage
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze
from doublure.sources.balanced import Balanced

# Images of a small batch.
_SMALL = 32
# Steps that are timed at most, those between two batches that a pool makes, and iterations of a
# search for images; or all that it has.
_STEPS, _EVERY, _ITERATIONS, _ALL = WARM_UP, 6, 5, 1_000_000
# Images that a network answers at once when that is timed.
_ASKED = 32
# Of the seconds that a beginning takes on a batch of 128, what does not depend on their number.
_SOLVING_SHARE, _SOLVED = 0.4, 128


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds: what a stage was timed at.

    Args:
        begin: of how the weights begin on 128 images.
        batch: of a batch for the pool before the first step.
        beside: of a batch made while the student learns, as a multiple of one before.
        image: of one image more in a balanced pool.
        step: of a plain step.
    """

    begin: float = 0.0
    batch: float = 0.0
    beside: float = 1.0
    image: float = 0.0
    step: float

    def beginning(self, num_images: int) -> float:
        """Return the seconds that a beginning takes on so many images."""
        return self.begin * (_SOLVING_SHARE + (1 - _SOLVING_SHARE) * num_images / _SOLVED)

    def of_batches(self, factor: float) -> "Costs":
        """Return the costs with batches so many times as large."""
        return dataclasses.replace(self, batch=factor * self.batch, step=factor * self.step)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Whom a stage is timed with."""

    teacher: Network[Any] | None
    student: Network[Any]
    rng: torch.Generator
    processes: ProcessGroup
    clock: Clock


def time_stage(
    stage: Stage,
    teacher: Network[Any] | None,
    student: Network[Any],
    rng: torch.Generator,
    processes: ProcessGroup,
    limit: float,
    clock: Clock = time.perf_counter,
) -> Costs:
    """Return what a stage costs, from a few discarded steps on copies.

    Args:
        limit: seconds that steps may be timed for.
    """
    whole = stage.fit.batch_size // processes.world
    learning = seconds_to_answer(student, clock)
    answering = 0.0 if teacher is None else seconds_to_answer(teacher, clock)
    beside = 1 + learning / max(answering, 1e-9)
    pair = _Pair(teacher=teacher, student=student, rng=rng, processes=processes, clock=clock)
    start = clock()
    # A step is an answer of the teacher's, and one of the student's with its gradient.
    # All processes take the same steps.
    cheap = processes.broadcast(_STEPS * whole * (answering + 3 * learning) < limit / 2)
    size = whole if cheap else min(whole, _SMALL)
    costs = _timed(stage, size, _SMALL, _ITERATIONS, beside, limit, pair)
    taken = clock() - start
    pool = pool_of(stage.source)
    at_once = whole if pool is None else pool.made_at_once or whole
    # What the same takes with whole batches: steps, four batches for the pool, a beginning.
    expected = _STEPS * costs.step + 4 * beside * costs.batch + costs.beginning(whole)
    again = taken + expected < limit and (size < whole or pool is not None)
    if processes.broadcast(again):
        costs = _timed(stage, whole, at_once, _ALL, beside, limit, pair)
    return dataclasses.replace(costs, beside=beside)


def _timed(
    stage: Stage,
    size: int,
    at_once: int,
    iterations: int,
    beside: float,
    limit: float,
    pair: _Pair,
) -> Costs:
    """Return the costs of a stage with whole batches, from a smaller trial.

    Args:
        size: images of a batch, on each process.
        at_once: images of a batch for a pool.
        iterations: of a search for images, at most.
        beside: what a batch beside the steps takes, as a multiple of one before.
    """
    # A ring draws less often than there are steps.
    every = _EVERY if stage.ring is None else max(1, _EVERY // stage.ring.reuse)
    trial = dataclasses.replace(
        stage,
        source=small_trial(stage.source, at_once, every, iterations),
        fit=dataclasses.replace(stage.fit, batch_size=size * pair.processes.world),
    )
    begin = drawing = 0.0

    def train(settings: FitSettings, lap: Lap) -> None:
        nonlocal begin, drawing
        with tempfile.TemporaryDirectory() as scratch:
            opened = open_stage(
                trial,
                pair.teacher,
                copy.deepcopy(pair.student),
                pair.rng,
                settings=settings,
                rank=pair.processes.rank,
                world=pair.processes.world,
                scratch=Path(scratch),
            )
            if opened.initialize is not None:
                start = pair.clock()
                shown = opened.draw(1)  # one batch
                drawn = pair.clock()
                opened.initialize(shown)
                drawing = drawn - start
                begin = pair.clock() - (drawn if stage.init_source is None else start)
            lap.restart()
            opened.begin(logger=lap)

    most = limit if pair.processes.world == 1 else math.inf
    timing = time_steps(train, trial.fit, pair.clock, most)
    if stage.init is None or stage.init_source is not None:
        drawing = max(timing.first - timing.step, 0.0)
    made, pool = 0.0, pool_of(stage.source)
    if pool is not None:
        searched = iterations_of(pool.source) or 1
        whole = pool.made_at_once or stage.fit.batch_size // pair.processes.world
        # Later ones tell more than the first, which pays for what comes once.
        one = timing.batch / beside if timing.batch else drawing
        made = one * whole / at_once * max(1.0, searched / iterations)
    return Costs(
        begin=begin / (_SOLVING_SHARE + (1 - _SOLVING_SHARE) * size / _SOLVED),
        batch=made,
        image=_seconds_an_image(trial, timing),
        step=timing.step * stage.fit.batch_size / trial.fit.batch_size,
    )


def _seconds_an_image(trial: Stage, timing: StepTiming) -> float:
    """Return the seconds of one image more in the balanced pool of a stage; 0 without one."""
    pool = next((part for part in parts_of(trial.source) if isinstance(part, Balanced)), None)
    if pool is None:
        return 0.0
    return timing.filling / pool.num_images(trial.fit.steps * trial.fit.batch_size)


def seconds_to_answer(network: Network[Any], clock: Clock = time.perf_counter) -> float:
    """Return about how long a network takes to answer one input."""
    device = device_of(network)
    inputs = network.contract.blank(_ASKED, device)
    asked = freeze(network)
    with torch.no_grad():
        asked(inputs)  # the first call pays for memory
        start = clock()
        asked(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return (clock() - start) / _ASKED
