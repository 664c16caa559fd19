"""A source with a part of it changed: how a plan makes pools smaller and searches shorter."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from doublure.core.protocols import Source, WrappingSource, parts_of
from doublure.sources.balanced import Balanced
from doublure.sources.combined import Combined
from doublure.sources.image_optimisation import ImageOptimisation
from doublure.sources.rdskd import RDSKD
from doublure.sources.replay import Replay
from doublure.sources.short_inversion import ShortInversion

# A pool that does not grow.
NEVER = 1_000_000_000


@runtime_checkable
class _Searching(Source, Protocol):
    """A source whose images are optimised one batch after the other."""

    @property
    def optimisation(self) -> ImageOptimisation: ...


def edited(source: Source, edit: Callable[[Source], Source]) -> Source:
    """Return a source with every part of it edited, from the outside in; an edited part stands."""
    made = edit(source)
    if made is not source:
        return made
    if isinstance(source, Combined):
        parts = tuple(edited(part, edit) for part in source.sources)
        return dataclasses.replace(source, sources=parts)
    if isinstance(source, WrappingSource):
        around: Any = source
        wrapped: Source = dataclasses.replace(around, source=edited(source.source, edit))
        return wrapped
    return source


def pool_of(source: Source) -> Replay | None:
    """Return the pool of costly images in a source, if there is one."""
    return next((part for part in parts_of(source) if isinstance(part, Replay)), None)


def with_pool(source: Source, pool: Source) -> Source:
    """Return a source with `pool` in the place of its pool of costly images."""
    return edited(source, lambda part: pool if isinstance(part, Replay) else part)


def smaller_pools(source: Source, factor: float) -> Source:
    """Return a source whose balanced pools hold so many times as many images."""

    def smaller(part: Source) -> Source:
        if isinstance(part, Balanced):
            return dataclasses.replace(part, pool_size=max(1, int(factor * part.pool_size)))
        return part

    return edited(source, smaller)


def iterations_of(source: Source) -> int | None:
    """Return how many iterations a search for images takes; None for what searches for none."""
    if isinstance(source, ShortInversion):
        return source.iterations
    return source.optimisation.iterations if isinstance(source, _Searching) else None


def with_iterations(source: Source, iterations: int) -> Source:
    """Return a search for images that takes so many iterations, coarse ones in proportion."""
    if isinstance(source, ShortInversion):
        return dataclasses.replace(source, iterations=iterations)
    assert isinstance(source, _Searching)
    search, made = source.optimisation, iterations
    coarse = search.coarse_iterations * made // search.iterations
    search = dataclasses.replace(search, iterations=made, coarse_iterations=coarse)
    around: Any = source
    changed: Source = dataclasses.replace(around, optimisation=search)
    return changed


def small_trial(source: Source, at_once: int, every: int, iterations: int) -> Source:
    """Return a source that prepares and draws little at once, to be timed.

    Args:
        at_once: images that a pool makes, or a generator is trained on, at once.
        every: draws between two batches of a pool that begins with one.
        iterations: of a search for images, at most.
    """

    def smaller(part: Source) -> Source:
        if isinstance(part, Replay):
            inner, whole = part.source, iterations_of(part.source)
            if whole is not None:
                inner = with_iterations(inner, min(iterations, whole))
            made = dataclasses.replace(part, source=inner, made_at_once=at_once)
            return dataclasses.replace(made, first=1, every=every, until=1.0)
        if isinstance(part, Balanced):
            return dataclasses.replace(part, chunk=min(part.chunk, 4 * at_once))
        if isinstance(part, RDSKD):
            batch = min(part.generator_batch, at_once)
            return dataclasses.replace(part, generator_batch=batch, generator_steps=1)
        return part

    return edited(source, smaller)
