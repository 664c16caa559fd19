"""`score`: the quality of a transfer set for a teacher, before any training."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from doublure import recipe_file
from doublure.audits.calibration import committed
from doublure.audits.transfer_card import TransferSetCard
from doublure.audits.transfer_set import COUNT, TransferSetScorer
from doublure.core.protocols import Source, WrappingSource
from doublure.engine.method import MethodInputs
from doublure.engine.recipe import Recipe
from doublure.engine.run_options import find_device
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import resolve
from doublure.recipes import shader_kd
from doublure.tasks.classification.summary import temperature_of
from doublure.verbs.naming import open_network, source_named


def score(
    teacher: str | NetworkRef | nn.Module | None = None,
    transfer: Sequence[str | Source] = (),
    *,
    weights: str | None = None,
    weights_key: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
    recipe: str | Path | Recipe | None = None,
    count: int = COUNT,
    seed: int = 0,
    allow_code: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[str], None] = lambda _: None,
) -> list[TransferSetCard]:
    """Return the score of each transfer set: raw, and with the student's augmentation.

    Args:
        teacher: a REF or a network; weights, mean, std, size and classes describe it. None uses the
            recipe's.
        transfer: sources by name or path. Each gets the wrappers of the default recipe, or of
            `recipe`; a source from Python that already has wrappers is unchanged.
        recipe: a recipe whose own sources are also scored, first.
        count: number of images, from each stream.
        allow_code: files whose code may run if a recipe or a run's student needs it.
        say: callback for log messages.
        watch: callback for the progress.
    """
    made = recipe if recipe is None or isinstance(recipe, Recipe) else _read(recipe)
    if made is None and not transfer:
        raise ValueError("score needs a transfer set; name it with --transfer or --recipe")
    said: dict[str, Any] = {
        "weights": weights,
        "weights_key": weights_key,
        "mean": mean,
        "std": std,
    }
    said |= {"size": size, "classes": classes}
    network = _teacher(teacher, made, said, allow_code, say)
    stages = shader_kd(MethodInputs(contract=network.contract)) if made is None else made.stages
    sets = [] if made is None else _sources_of(made)
    for named in transfer:
        source = source_named(named, contract=network.contract)
        fed = source if isinstance(source, WrappingSource) else _around(stages[0].source, source)
        sets.append((_name_of(named), fed))
    scorer = TransferSetScorer(
        network,
        temperature=temperature_of(stages[0].objective),
        calibration=committed(),
        watch=watch,
    )
    fit = stages[0].fit
    length = fit.steps * fit.batch_size
    return [
        scorer.score(source, name=name, count=count, seed=seed, run_length=length)
        for name, source in sets
    ]


def _read(file: str | Path) -> Recipe:
    return recipe_file.read(Path(file))


def _teacher(
    teacher: str | NetworkRef | nn.Module | None,
    recipe: Recipe | None,
    said: dict[str, Any],
    allow_code: Sequence[str],
    say: Callable[[str], None],
) -> Network:
    """Return the teacher, on the best device unless it was passed in Python."""
    if teacher is None:
        if recipe is None or recipe.teacher is None:
            raise ValueError("score needs a teacher; name it with --teacher")
        opened = resolve(recipe.teacher, allow_code=allow_code)
        for note in opened.notes:
            say(note)
        return opened.network.to(find_device("auto"))
    network = open_network(teacher, verb="score", say=say, allow_code=allow_code, **said)
    if not isinstance(teacher, nn.Module):
        network.to(find_device("auto"))
    return network


def _sources_of(recipe: Recipe) -> list[tuple[str, Source]]:
    """Return the source of each stage by name."""
    if len(recipe.stages) == 1:
        return [(recipe.method, recipe.stages[0].source)]
    return [(f"{recipe.method}, stage {i}", stage.source) for i, stage in enumerate(recipe.stages)]


def _around(template: Source, source: Source) -> Source:
    """Return `source` inside the wrappers of the template's own source."""
    if not isinstance(template, WrappingSource):
        return source
    settings: Any = template  # a frozen dataclass, as all settings are
    wrapped: Source = dataclasses.replace(settings, source=_around(template.source, source))
    return wrapped


def _name_of(source: str | Source) -> str:
    return source if isinstance(source, str) else type(source).__name__.lower()
