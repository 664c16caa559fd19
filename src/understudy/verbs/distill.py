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
    permitted,
    source_named,
    with_classes,
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
    student_classes: int | str | None = None,
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
        student_classes: the student's own, where they are not the teacher's: how many, or a file
            with one name a line. Layers alone are compared then.
        augment: an augmentation in place of the recipe's own, of `sources.augmenting.AUGMENTERS`.
        eval: labelled data to score on; never changes the student.
        skip_bad: leave unreadable image files out instead of raising.
        recipe: a recipe to run again, in place of teacher, student and method.
        init_from: weights the student starts from.
        budget: seconds, in place of steps.
        set: fields of the recipe by key, as texts; see `recipe.replace_keys`.
        allow_code: files whose code a recipe or a run's student may run.
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
        opened = networks["teacher"] = open_network(
            teacher, say=say, text=True, allow_code=allow_code, **said
        )
        reference = network_named(teacher, **said)
        contract = with_classes(opened.contract, student_classes)
        if isinstance(student, nn.Module):
            networks["student"] = as_network(student, contract)
        made = _recipe(
            reference,
            network_named(student, weights=init_from, classes=student_classes),
            contract,
            method=method,
            transfer=transfer,
            objective=objective,
            without=without,
            labels=labels,
            own_classes=student_classes is not None,
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
        allow_code=permitted(teacher, student, allow_code=allow_code),
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
    own_classes: bool,
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
    of_images = {
        "--labels": labels,
        "--student-classes": own_classes,
        "--augment": augment is not None,
    }
    if text and any(of_images.values()):
        option = next(name for name, said in of_images.items() if said)
        raise ValueError(f"{option} is for images, but the teacher translates; leave it away")
    if labels and given.base is None:
        raise ValueError("--labels needs a labelled transfer set; name it with --transfer")
    if labels or own_classes:
        given = _not_by_answers(given, named)
    if not labels and METHODS[one_of("method", named, METHODS)].needs == "labels":
        raise ValueError(f"{named} needs labels; name a labelled --transfer, and say --labels")
    recipe = published(named, teacher, student, given)
    if labels and chosen is None and METHODS[named].needs != "labels":
        recipe = _with_labels(recipe, own_classes=own_classes)
    if augment is not None:
        stages = tuple(
            replace(stage, source=augmented(stage.source, augment, given.of_images))
            for stage in recipe.stages
        )
        recipe = replace(recipe, method="custom", stages=stages)
    return replace(recipe, own_classes=own_classes)


def _transfer(
    named: str | Source | None, contract: InputContract | TextContract, labels: bool
) -> Source | None:
    if not isinstance(named, str):
        return named
    if isinstance(contract, TextContract):
        return Sentences(data=named)
    return source_named(named, labels=labels, contract=contract)


def _not_by_answers(given: Given, method: str) -> Given:
    """Return what is given, without the parts that would part images from their labels.

    Balancing and attacks choose images by the teacher's classes; labels are not asked.
    """
    parted = {"balance", "attack", "matching"} & {*METHODS[one_of("method", method, METHODS)].parts}
    return replace(given, without=given.without | parted)


def _with_labels(recipe: Recipe, *, own_classes: bool) -> Recipe:
    """Return the recipe with labels beside what its last stage matches.

    A student with classes of its own learns them alone, once earlier stages have initialised it.
    """
    last = recipe.stages[-1]
    objective: AnyObjective = HardLabels()
    if not own_classes or len(recipe.stages) == 1:
        terms = ((1 - _LABELS_WEIGHT, last.objective), (_LABELS_WEIGHT, objective))
        objective = Weighted(terms=terms)
    stages = (*recipe.stages[:-1], replace(last, objective=objective))
    return replace(recipe, method="custom", stages=stages)
