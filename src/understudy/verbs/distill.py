"""`distill`: the main job. Teacher + transfer set + objective -> student."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from understudy import pipeline
from understudy import recipe as recipe_file
from understudy.checks import one_of
from understudy.method import Given
from understudy.nets.network import Network
from understudy.nets.references import NetworkRef
from understudy.objectives.hard_labels import HardLabels
from understudy.objectives.weighted import AnyObjective, Weighted
from understudy.pipeline import Conduct
from understudy.protocols import InputContract, Source, TextContract
from understudy.recipe import Recipe
from understudy.recipes import METHODS, published
from understudy.sources.augmenting import augmented
from understudy.sources.sentences import Sentences
from understudy.verbs.naming import (
    as_network,
    network_named,
    objective_named,
    open_network,
    source_named,
    with_options,
)

# What most benchmarks give to labels beside a teacher; see objectives.soft_targets.PUBLISHED.
_LABELS_WEIGHT = 0.1


def distill(
    teacher: str | NetworkRef | nn.Module | None = None,
    student: str | NetworkRef | nn.Module | None = None,
    *,
    out: str | Path,
    method: str | None = None,
    transfer: str | Source | None = None,
    objective: Sequence[str] | AnyObjective = (),
    without: Sequence[str] = (),
    labels: bool = False,
    augment: str | None = None,
    eval: str | None = None,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
    skip_bad: bool = False,
    recipe: str | Path | Recipe | None = None,
    init_from: str | None = None,
    steps: int | None = None,
    budget: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    set: Mapping[str, str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_code: Sequence[str] = (),
    tensorboard: bool = False,
    checkpoint_seconds: float = 30.0,
    audit: bool = True,
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None,
) -> dict[str, Any]:
    """Make `student` do what `teacher` does, and return the summary of the run in `out`.

    Args:
        teacher: a REF or a module; weights, mean, std, size and classes describe it.
        method: a published recipe, None for `shader-kd` (of text: `sequence-kd`); transfer,
            objective and without swap parts of it.
        labels: use the labels of the transfer set beside the teacher.
        augment: an augmentation in place of the recipe's own, of `sources.augmenting.AUGMENTERS`.
        eval: labelled data to score on; never changes the student.
        skip_bad: leave unreadable image files out instead of raising.
        recipe: a recipe to run again, in place of teacher, student and method.
        init_from: weights the student starts from.
        budget: seconds, in place of steps.
        set: fields of the recipe by key, as texts; see `recipe.replace_keys`.
        allow_code: files whose code a recipe may run.
        audit: whether the transfer set is scored, or its search followed, for the report.
    """
    networks: dict[str, Network[Any]] = {}
    if recipe is not None:
        made = recipe if isinstance(recipe, Recipe) else recipe_file.read(Path(recipe))
    else:
        if teacher is None or student is None:
            raise ValueError("distill needs a teacher and a student, or a recipe")
        said: dict[str, Any] = {"weights": weights, "mean": mean, "std": std}
        said |= {"size": size, "classes": classes}
        opened = networks["teacher"] = open_network(teacher, say=say, text=True, **said)
        reference = network_named(teacher, **said)
        if isinstance(student, nn.Module):
            networks["student"] = as_network(student, opened.contract)
        made = _recipe(
            reference,
            replace(network_named(student), weights=init_from)
            if init_from
            else network_named(student),
            opened.contract,
            method=method,
            transfer=transfer,
            objective=objective,
            without=without,
            labels=labels,
            augment=augment,
        )
    made = with_options(
        replace(made, eval=eval or made.eval),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device,
        precision=precision,
        skip_bad=skip_bad,
        assignments=set,
    )
    conduct = Conduct(
        resume=resume,
        overwrite=overwrite,
        budget=budget,
        allow_code=allow_code if recipe is not None else True,
        networks=networks,
        skip_bad=skip_bad,
        tensorboard=tensorboard,
        checkpoint_seconds=checkpoint_seconds,
        audit=audit,
        say=say,
        watch=watch,
    )
    return pipeline.run(made, Path(out), conduct)


def _recipe(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract | TextContract,
    *,
    method: str | None,
    transfer: str | Source | None,
    objective: Sequence[str] | AnyObjective,
    without: Sequence[str],
    labels: bool,
    augment: str | None,
) -> Recipe:
    text = isinstance(contract, TextContract)
    named = method or ("sequence-kd" if text else "shader-kd")
    chosen = objective_named(objective) if isinstance(objective, Sequence) else objective
    given = Given(
        contract=contract,
        base=_transfer(transfer, contract, labels),
        without=frozenset(without),
        objective=chosen,
    )
    if text and (labels or augment is not None):
        option = "--labels" if labels else "--augment"
        raise ValueError(f"{option} is for images, but the teacher translates; leave it away")
    if labels:
        given = _labelled(given, named)
    elif METHODS[one_of("method", named, METHODS)].needs == "labels":
        raise ValueError(f"{named} needs labels; name a labelled --transfer, and say --labels")
    recipe = published(named, teacher, student, given)
    if labels and chosen is None and METHODS[named].needs != "labels":
        recipe = _beside_labels(recipe)
    if augment is None:
        return recipe
    stages = tuple(
        replace(stage, source=augmented(stage.source, augment, given.of_images))
        for stage in recipe.stages
    )
    return replace(recipe, method="custom", stages=stages)


def _transfer(
    named: str | Source | None, contract: InputContract | TextContract, labels: bool
) -> Source | None:
    if not isinstance(named, str):
        return named
    if isinstance(contract, TextContract):
        return Sentences(data=named)
    return source_named(named, labels=labels, contract=contract)


def _labelled(given: Given, method: str) -> Given:
    """Return what is given, without the parts that would part images from their labels."""
    if given.base is None:
        raise ValueError("--labels needs a labelled transfer set; name it with --transfer")
    # Balancing and attacks choose images by what the teacher says of them, not by their labels.
    parted = {"balance", "attack", "matching"} & {*METHODS[one_of("method", method, METHODS)].parts}
    return replace(given, without=given.without | parted)


def _beside_labels(recipe: Recipe) -> Recipe:
    """Return the recipe with labels beside what its last stage matches."""
    last = recipe.stages[-1]
    both = Weighted(terms=((1 - _LABELS_WEIGHT, last.objective), (_LABELS_WEIGHT, HardLabels())))
    stages = (*recipe.stages[:-1], replace(last, objective=both))
    return replace(recipe, method="custom", stages=stages)
