"""A budget in seconds becomes steps and sizes of pools, before step 0.

A few steps on copies are timed (`stage_costs`). Seconds T that are left for a stage are divided:

    a pool of costly images, with a `share` s of the time (`Replay.share`)
        first = s T / 2 / c      every = until * draws / (s T / 2 / c)      steps = (1 - s) T / p
    the same without a share     as the recipe says where that takes at most half of the time;
                                 otherwise as with s = 1/2
    a balanced pool of m images  steps = (T - m c) / p, with m c at most 0.4 T
    none                         steps = T / p

with c the seconds of a batch, or an image, for the pool, p those of a plain step, and draws what
the ring of the stage, if it has one, leaves of the steps. What does not fit is made smaller, and
the plan says so: searches for images take fewer iterations, batches hold fewer images. A budget
always yields a student. While it learns, `pacing` corrects the steps.
"""

import copy
import dataclasses
import time
from typing import Any

from doublure.core.protocols import WrappingSource, parts_of
from doublure.engine.budget import Clock
from doublure.engine.model_transform import apply_transform
from doublure.engine.optimizers import SGD
from doublure.engine.processes import ProcessGroup
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.source_edits import (
    NEVER,
    iterations_of,
    pool_of,
    smaller_pools,
    with_iterations,
    with_pool,
)
from doublure.engine.stage_costs import Costs, time_stage
from doublure.engine.stage_opening import stage_rng
from doublure.nets.network import Network
from doublure.sources.balanced import Balanced
from doublure.sources.replay import Replay

# Where nothing is left, so much is planned for all the same; the budget is overrun by it.
_LEAST_SECONDS = 1.0
# Of the time, at most so much goes into finding out what steps cost.
_TIMING_SHARE = 0.08
# Of the time, at most so much goes into a balanced pool.
_FILLING_SHARE = 0.4
# Of the time, what a pool may take that says no share of its own.
_POOL_SHARE = 0.5
# Of the time, at most so much goes into how the weights begin; fewer images are taken then.
_BEGINNING_SHARE = 0.15
# Where fewer steps would fit, batches are made smaller, down to so many images.
_FEWEST_STEPS, _SMALLEST = 100, 32
# A search for images of fewer iterations finds nothing; batches are made smaller then.
_FEWEST_ITERATIONS = 10
# A pool that begins with fewer batches is made of smaller ones.
_FEWEST_BATCHES = 2


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
    """
    weights = [stage.fit.steps for stage in recipe.stages]
    stages, lines = [], list[str]()
    student = copy.deepcopy(student)
    for i, stage in enumerate(recipe.stages):
        student = apply_transform(stage, teacher, student, stage_rng(recipe, i))
        share = seconds * weights[i] / sum(weights)
        began = clock()
        limit = _TIMING_SHARE * share
        costs = time_stage(stage, teacher, student, stage_rng(recipe, i), processes, limit, clock)
        planned, told = plan_stage(stage, costs, share - (clock() - began), processes.world)
        stages.append(planned)
        lines += told
    return dataclasses.replace(recipe, stages=tuple(stages), plan=(*recipe.plan, *lines))


def plan_stage(
    stage: Stage, costs: Costs, seconds: float, world: int = 1
) -> tuple[Stage, list[str]]:
    """Return the stage that fits into `seconds`, and what was planned, in words.

    Args:
        world: number of processes, which batches are divided among.
    """
    seconds = max(seconds, _LEAST_SECONDS)
    stage, costs, lines = _smaller_batches(stage, costs, seconds, world)
    pool = pool_of(stage.source)
    if pool is not None:
        # What a beginning sees comes from this pool.
        stage, begin = _begun_within(stage, costs, seconds)
        divided, told = _divide(stage, pool, costs, begin, max(seconds - begin, 0.0))
        if divided is not None:
            return divided, lines + told
        # What the search would have begun with is shown as it is.
        assert isinstance(pool.source, WrappingSource)
        stage = dataclasses.replace(stage, source=with_pool(stage.source, pool.source.source))
        lines.append(f"no images are optimised: a batch of them takes {costs.batch:.0f} s here")
    stage, begin = _begun_within(stage, costs, seconds)
    planned, told = _fill_and_step(stage, costs, begin, max(seconds - begin, 0.0))
    return planned, lines + told


def _smaller_batches(
    stage: Stage, costs: Costs, seconds: float, world: int
) -> tuple[Stage, Costs, list[str]]:
    """Return the stage with batches of which enough fit; the rate of SGD falls with them.

    Goyal et al., arXiv:1706.02677, sec. 2.1: the rate goes as the size of a batch.
    """
    fit, size = stage.fit, stage.fit.batch_size
    # About half of the time is for steps where much goes into images.
    while (
        0.5 * seconds < _FEWEST_STEPS * costs.step * size / fit.batch_size
        and size >= 2 * _SMALLEST
        and size // 2 % world == 0
    ):
        size //= 2
    if size == fit.batch_size:
        return stage, costs, []
    factor = size / fit.batch_size
    rate = fit.learning_rate * (factor if isinstance(fit.optimizer, SGD) else 1.0)
    line = (
        f"batches of {size} in place of {fit.batch_size}, at a rate of {rate:g}: too few steps "
        f"would fit of {costs.step:.2g} s, which whole ones take here"
    )
    settings = dataclasses.replace(fit, batch_size=size, learning_rate=rate)
    stage, costs = dataclasses.replace(stage, fit=settings), costs.of_batches(factor)
    pool = pool_of(stage.source)
    if pool is not None and pool.made_at_once is not None:
        at_once = max(1, int(factor * pool.made_at_once))
        made = dataclasses.replace(pool, made_at_once=at_once)
        stage = dataclasses.replace(stage, source=with_pool(stage.source, made))
    return stage, costs, [line]


def _begun_within(stage: Stage, costs: Costs, seconds: float) -> tuple[Stage, float]:
    """Return the stage with an initialisation that takes no more than its share, and what it takes.

    It is shown fewer images where it would take more.
    """
    if stage.init is None or not costs.begin:
        return stage, 0.0
    size = stage.fit.batch_size
    wanted = -(-stage.init.num_images // size)
    fitting = (
        n for n in range(wanted, 0, -1) if costs.beginning(n * size) < _BEGINNING_SHARE * seconds
    )
    num_batches = next(fitting, 1)
    if num_batches < wanted:
        init: Any = stage.init
        fewer = dataclasses.replace(init, num_images=num_batches * size)
        stage = dataclasses.replace(stage, init=fewer)
    return stage, costs.beginning(num_batches * size)


def _divide(
    stage: Stage, pool: Replay, costs: Costs, begin: float, seconds: float
) -> tuple[Stage | None, list[str]]:
    """Return the stage with its pool's part of the time; None where that affords no pool.

    Args:
        begin: seconds that the weights' beginning takes, which are off `seconds` already.
    """
    batch, reuse = max(costs.batch, 1e-9), 1 if stage.ring is None else stage.ring.reuse
    own = _at_its_own_pace(stage, pool, costs, begin, seconds)
    if own is not None:
        return own
    share = _POOL_SHARE if pool.share is None else pool.share
    steps = max(1, int((1 - share) * seconds / costs.step))
    before, lines = share * seconds / 2, list[str]()
    if before < _FEWEST_BATCHES * batch:
        pool, batch, lines = _shorter_search(
            pool, batch, before / _FEWEST_BATCHES, stage.fit.batch_size
        )
    if before < batch and isinstance(pool.source, WrappingSource):
        return None, []
    first = max(1, int(before / batch))
    if pool.share is None:
        first = min(first, pool.first)
    grown = int(before / (batch * costs.beside))
    every = max(1, int(pool.until * steps / reuse / grown)) if grown else NEVER
    pool = dataclasses.replace(pool, first=first, every=every)
    line = (
        f"{seconds + begin:.0f} s: {begin:.0f} to begin, {first} batches of images before step 0 "
        f"and {grown} more while it learns ({batch:.1f} s each), {steps:,} steps of "
        f"{1000 * costs.step:.0f} ms"
    )
    stage = dataclasses.replace(stage, source=with_pool(stage.source, pool))
    return _of_steps(stage, steps), [*lines, line]


def _at_its_own_pace(
    stage: Stage, pool: Replay, costs: Costs, begin: float, seconds: float
) -> tuple[Stage, list[str]] | None:
    """Return the stage with the recipe's own pool where that takes no more than its part."""
    if pool.share is not None:
        return None
    reuse = 1 if stage.ring is None else stage.ring.reuse
    filling = pool.first * costs.batch
    growing = pool.until * costs.batch * costs.beside / pool.every / reuse  # a step
    steps = int((seconds - filling) / (costs.step + growing))
    if steps < 1 or filling + steps * growing > _POOL_SHARE * seconds:
        return None
    line = (
        f"{seconds + begin:.0f} s: {begin:.0f} to begin, {filling:.0f} for {pool.first} batches "
        f"of images, {steps:,} steps of {1000 * (costs.step + growing):.0f} ms"
    )
    return _of_steps(stage, steps), [line]


def _shorter_search(
    pool: Replay, batch: float, seconds: float, batch_size: int
) -> tuple[Replay, float, list[str]]:
    """Return a pool of which a batch takes about so many seconds, what it takes, and words."""
    lines = []
    iterations = iterations_of(pool.source)
    # Of the few iterations of a short search none can be spared.
    if iterations is not None and iterations > 2 * _FEWEST_ITERATIONS:
        fewer = max(_FEWEST_ITERATIONS, int(iterations * seconds / batch))
        lines.append(f"images are optimised for {fewer} iterations in place of {iterations}")
        batch *= fewer / iterations
        pool = dataclasses.replace(pool, source=with_iterations(pool.source, fewer))
    if batch > seconds:
        whole = pool.made_at_once or batch_size
        at_once = min(whole, max(_SMALLEST // 2, int(whole * seconds / batch)))
        lines.append(f"{at_once} images are made at once, in place of {whole}")
        batch *= at_once / whole
        pool = dataclasses.replace(pool, made_at_once=at_once)
    return pool, batch, lines


def _fill_and_step(
    stage: Stage, costs: Costs, begin: float, seconds: float
) -> tuple[Stage, list[str]]:
    """Return the stage of which pools of balanced images, and steps, fit into the time."""
    lines, filling, step = [], 0.0, costs.step
    pool = next((part for part in parts_of(stage.source) if isinstance(part, Balanced)), None)
    if pool is not None and costs.image:
        # A short run keeps fewer images: so many for each of its steps.
        size = stage.fit.batch_size
        each = costs.image * size / pool.least_showings
        steps = max(1, int(seconds / (step + each)))
        kept = pool.num_images(steps * size)
        if kept * costs.image > _FILLING_SHARE * seconds:
            factor = _FILLING_SHARE * seconds / costs.image / pool.pool_size
            stage = dataclasses.replace(stage, source=smaller_pools(stage.source, factor))
            kept = max(1, int(factor * pool.pool_size))
            lines.append(f"the pool holds {kept:,} images in place of {pool.pool_size:,}")
        filling = kept * costs.image
    steps = max(1, int((seconds - filling) / step))
    lines.append(
        f"{seconds + begin:.0f} s: {begin:.0f} to begin, {filling:.0f} to fill pools, "
        f"{steps:,} steps of {1000 * step:.0f} ms"
    )
    return _of_steps(stage, steps), lines


def _of_steps(stage: Stage, steps: int) -> Stage:
    return dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, steps=steps))
