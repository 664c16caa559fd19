"""A budget in seconds becomes steps and sizes of pools, once, before step 0.

A few steps on copies are timed. The remaining seconds T of a stage are divided:

    a pool with its own `share` s (`Replay.share`)
        first = s T / 2 / c      every = until * draws / (s T / 2 / c)      steps = (1 - s) T / p
    any other pool
        steps = (T - filling) / p, and a pool that would take more than 0.4 T becomes smaller

with c the seconds of a batch for the pool, p those of a plain step, and draws the number of new
batches of the stage's ring (without a ring, the steps). If not even two batches fit, the starts of
the pool's optimisation are used without optimisation.
"""

import copy
import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from doublure.core.protocols import Source, WrappingSource
from doublure.engine.budget import Clock, Lap, StepTiming, steps_within, time_steps
from doublure.engine.fit import FitSettings
from doublure.engine.model_transform import apply_transform
from doublure.engine.processes import ProcessGroup
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.stage_opening import open_stage, stage_rng
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze
from doublure.sources.balanced import Balanced
from doublure.sources.combined import Combined
from doublure.sources.replay import Replay

# Largest share of the time for the timing itself.
_TIMING_SHARE = 0.08
# Largest share of the time for a pool without its own share.
_FILLING_SHARE = 0.4
# Batch size for the timing of a network.
_ASKED = 32
# During the timing, a pool with a share does not grow.
_NEVER = 1_000_000_000
# Share of an initialisation's time on one batch that does not depend on the number of batches.
_SOLVING_SHARE = 0.4
# Largest share of the time for the initialisation; it gets fewer images if necessary.
_BEGINNING_SHARE = 0.15


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Measured seconds of a stage.

    Args:
        begin: initialisation on one batch of images.
        batch: a batch for the pool before the first step.
        beside: a batch during the training, as a multiple of one before it.
        timing: timing of steps.
    """

    begin: float = 0.0
    batch: float = 0.0
    beside: float = 1.0
    timing: StepTiming

    def beginning(self, num_batches: int) -> float:
        """Return the seconds of the initialisation on this many batches."""
        return self.begin * (_SOLVING_SHARE + (1 - _SOLVING_SHARE) * num_batches)


def within_budget(
    recipe: Recipe,
    teacher: Network[Any] | None,
    student: Network[Any],
    seconds: float,
    processes: ProcessGroup,
    clock: Clock = time.perf_counter,
) -> Recipe:
    """Return the recipe with the steps and pools that fit into `seconds` of `clock`.

    With several stages, the time is shared in the proportion of their steps.

    Raises:
        ValueError: not one step fits; the message has the times.
    """
    weights = [stage.fit.steps for stage in recipe.stages]
    stages, lines = [], list[str]()
    student = copy.deepcopy(student)
    for i, stage in enumerate(recipe.stages):
        student = apply_transform(stage, teacher, student, stage_rng(recipe, i))
        share = seconds * weights[i] / sum(weights)
        began = clock()

        def time_stage(trial: Stage, i: int = i, net: Any = student, share: float = share) -> Costs:
            return _time_stage(
                trial, teacher, net, stage_rng(recipe, i), processes, clock, _TIMING_SHARE * share
            )

        def spent(began: float = began) -> float:
            return clock() - began

        planned, told = plan_stage(stage, share, time_stage, spent)
        stages.append(planned)
        lines += told
    plan = (*recipe.plan, *lines)
    return dataclasses.replace(recipe, stages=tuple(stages), plan=plan)


def plan_stage(
    stage: Stage,
    seconds: float,
    time_stage: Callable[[Stage], Costs],
    spent: Callable[[], float],
) -> tuple[Stage, list[str]]:
    """Return the stage that fits into `seconds`, and a description of the plan.

    Args:
        time_stage: measures the stage.
        spent: seconds of the planning so far.
    """
    pool = _sharing(stage.source)
    if pool is not None:
        trial = _with_pool(stage, dataclasses.replace(pool, first=1, every=_NEVER))
        costs = time_stage(trial)
        left = seconds - spent()
        stage, begin = _begun_within(stage, costs, left)
        planned = _share_out(stage, pool, costs, begin, left - begin)
        if planned is not None:
            return planned
        # The starts of the optimisation are used directly.
        assert isinstance(pool.source, WrappingSource)
        stage = _with_pool(stage, pool.source.source)
        line = f"no images are optimised: a batch of them takes {costs.batch:.0f} s here"
        planned_stage, lines = plan_stage(stage, seconds, time_stage, spent)
        return planned_stage, [line, *lines]
    costs = time_stage(stage)
    stage, begin = _begun_within(stage, costs, seconds - spent())
    left = seconds - spent() - begin
    if stage.init is not None:
        left -= costs.batch  # the source of its images
    timing, lines = costs.timing, []
    if timing.filling > _FILLING_SHARE * left > 0:
        factor = _FILLING_SHARE * left / timing.filling
        stage = dataclasses.replace(stage, source=_smaller_pools(stage.source, factor))
        timing = dataclasses.replace(timing, filling=factor * timing.filling)
        lines.append(f"pools are made {factor:.2f} times as large as the recipe's, to fit the time")
    steps = steps_within(seconds, dataclasses.replace(timing, spent=seconds - left))
    lines.append(
        f"{seconds:.0f} s: {seconds - left:.0f} to begin, {timing.filling:.0f} to fill pools, "
        f"{steps:,} steps of {1000 * timing.step:.0f} ms"
    )
    return _of_steps(stage, steps), lines


def _begun_within(stage: Stage, costs: Costs, seconds: float) -> tuple[Stage, float]:
    """Return the stage with an initialisation within its share of the time, and its seconds.

    It gets fewer images if it would take longer.
    """
    if stage.init is None or not costs.begin:
        return stage, 0.0
    wanted = -(-stage.init.num_images // stage.fit.batch_size)
    fitting = [n for n in range(1, wanted + 1) if costs.beginning(n) < _BEGINNING_SHARE * seconds]
    num_batches = max(fitting, default=1)
    if num_batches < wanted:
        init: Any = stage.init
        fewer = dataclasses.replace(init, num_images=num_batches * stage.fit.batch_size)
        stage = dataclasses.replace(stage, init=fewer)
    drawn = costs.batch * num_batches if stage.init_source is not None else 0.0
    return stage, costs.beginning(num_batches) + drawn


def _share_out(
    stage: Stage, pool: Replay, costs: Costs, begin: float, seconds: float
) -> tuple[Stage, list[str]] | None:
    """Return the stage with its pool's share of the time; None if that is too short for a pool.

    Args:
        begin: seconds of the initialisation, already subtracted from `seconds`.
    """
    assert pool.share is not None
    before = pool.share * seconds / 2
    batch = max(costs.batch, 1e-9)
    steps = int((1 - pool.share) * seconds / costs.timing.step)
    if before < batch or steps < 1:
        return None
    first = int(before / batch)
    grown = max(1, int(before / (batch * costs.beside)))
    draws = steps if stage.ring is None else steps / stage.ring.reuse
    every = max(1, int(pool.until * draws / grown))
    planned = _with_pool(stage, dataclasses.replace(pool, first=first, every=every))
    line = (
        f"{seconds + begin:.0f} s: {begin:.0f} to begin, {first} batches of images before step 0 "
        f"and {grown} more while it learns ({batch:.1f} s each), {steps:,} steps of "
        f"{1000 * costs.timing.step:.0f} ms"
    )
    return _of_steps(planned, steps), [line]


def _time_stage(
    stage: Stage,
    teacher: Network[Any] | None,
    student: Network[Any],
    rng: torch.Generator,
    processes: ProcessGroup,
    clock: Clock,
    limit: float,
) -> Costs:
    begin = batch = 0.0

    def train(settings: FitSettings, lap: Lap) -> None:
        nonlocal begin, batch
        with tempfile.TemporaryDirectory() as scratch:
            timed = open_stage(
                stage,
                teacher,
                copy.deepcopy(student),
                rng,
                settings=settings,
                rank=processes.rank,
                world=processes.world,
                scratch=Path(scratch),
            )
            if timed.initialize is not None:
                start = clock()
                shown = timed.draw(1)  # one batch
                drawn = clock()
                timed.initialize(shown)
                batch, begin = drawn - start, clock() - drawn
            lap.restart()
            timed.begin(logger=lap)

    timing = time_steps(train, stage.fit, clock, limit)
    if stage.init is None or stage.init_source is not None:
        batch = max(timing.first - timing.step, 0.0)
    beside = 1.0
    if teacher is not None:
        beside += seconds_to_answer(student, clock) / max(seconds_to_answer(teacher, clock), 1e-9)
    return Costs(begin=begin, batch=batch, beside=beside, timing=timing)


def seconds_to_answer(network: Network[Any], clock: Clock = time.perf_counter) -> float:
    """Return the approximate seconds of a network for one input."""
    device = device_of(network)
    inputs = network.contract.blank(_ASKED, device)
    asked = freeze(network)
    with torch.no_grad():
        asked(inputs)  # the first call includes memory allocation
        start = clock()
        asked(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return (clock() - start) / _ASKED


def _of_steps(stage: Stage, steps: int) -> Stage:
    return dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, steps=steps))


def _sharing(source: Source) -> Replay | None:
    """Return the pool with its own share of the time in a source, if there is one."""
    if isinstance(source, Replay) and source.share is not None:
        return source
    inner = source.sources if isinstance(source, Combined) else ()
    if isinstance(source, WrappingSource):
        inner = (source.source,)
    return next((found for part in inner if (found := _sharing(part)) is not None), None)


def _with_pool(stage: Stage, pool: Source) -> Stage:
    """Return the stage with `pool` in place of the one with its own share of the time."""
    return dataclasses.replace(stage, source=_map_parts(stage.source, _put(pool)))


def _put(pool: Source) -> Callable[[Source], Source]:
    return lambda part: pool if isinstance(part, Replay) and part.share is not None else part


def _smaller_pools(source: Source, factor: float) -> Source:
    def smaller(part: Source) -> Source:
        if isinstance(part, Balanced):
            return dataclasses.replace(part, pool_size=max(1, int(factor * part.pool_size)))
        if isinstance(part, Replay):
            return dataclasses.replace(part, first=max(1, int(factor * part.first)))
        return part

    return _map_parts(source, smaller)


def _map_parts(source: Source, change: Callable[[Source], Source]) -> Source:
    """Return a source with a function applied to each part, from the outside in."""
    made = change(source)
    if made is not source:
        return made
    if isinstance(source, Combined):
        return dataclasses.replace(
            source, sources=tuple(_map_parts(part, change) for part in source.sources)
        )
    if isinstance(source, WrappingSource):
        inner = _map_parts(source.source, change)
        around: Any = source
        wrapped: Source = dataclasses.replace(around, source=inner)
        return wrapped
    return source
