"""`distill`: teacher + transfer set + objective -> student."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from doublure.catalogue import plugins
from doublure.core.checks import one_of
from doublure.core.protocols import Source
from doublure.core.seeding import child_seed, from_seed
from doublure.engine.method import MethodInputs
from doublure.engine.recipe import Recipe
from doublure.engine.task import Task
from doublure.nets.references import NetworkRef
from doublure.networks import resolve
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.recipes import methods, published, with_batch_norm, with_interleaving
from doublure.sources.augmenting import augmented
from doublure.sources.few import Few
from doublure.verbs.naming import (
    as_network,
    check_options,
    network_named,
    objective_named,
    open_network,
    permitted,
    source_named,
    with_classes,
)
from doublure.verbs.run_options import (
    Made,
    TeachOptions,
    description,
    opening,
    run_recipe,
    with_chosen_optimizer,
)

# The usual weight of labels together with a teacher; see objectives.soft_targets.PUBLISHED.
_LABELS_WEIGHT = 0.1


def distill(
    teacher: str | NetworkRef | nn.Module | None = None,
    student: str | NetworkRef | nn.Module | None = None,
    *,
    out: str | Path,
    method: str | None = None,
    transfer: str | Source | None = None,
    few: str | Few | None = None,
    objective: Sequence[str] | AnyObjective = (),
    without: Sequence[str] = (),
    labels: bool = False,
    student_classes: int | str | None = None,
    augment: str | None = None,
    batch_norm: str | None = None,
    interleave: float | None = None,
    interleave_filters: str | None = None,
    init_from: str | None = None,
    from_scratch: bool = False,
    **options: Unpack[TeachOptions],
) -> dict[str, Any]:
    """Distil `teacher` into `student`, and return the summary of the run in `out`.

    Args:
        teacher: a REF or a module, described by the options.
        method: a published recipe, None for `auto` (for text: `sequence-kd`); transfer, objective
            and without change parts of it.
        few: 10 to 500 real images in addition to the method's own. Half of them are for training,
            the other half for evaluation: of accuracy if there are labels, and of agreement.
        labels: also use the labels of the transfer set.
        student_classes: the student's classes, if they are not the teacher's: their number, or a
            file with one name per line. Then only layers are compared.
        augment: an augmentation of `sources.augmenting.AUGMENTERS` in place of the recipe's own.
        batch_norm: initialisation and training of the student's BatchNorm: of
            `recipes.BATCH_NORMS`; see `recipes.with_batch_norm`.
        interleave: share of the steps with images of half the size; see `sources.interleaved`.
        interleave_filters: filters in those steps: split, mean, max or none.
        init_from: initial weights of the student.
        from_scratch: start from random weights, even if the student could inherit from its teacher.
        options: of `verbs.run_options.TeachOptions`.
    """
    allowed = permitted(student, allow_code=options.get("allow_code", ()))

    def make() -> Made:
        if teacher is None or student is None:
            raise ValueError("distill needs a teacher and a student, or a recipe")
        said = description(options)
        opened = open_network(teacher, verb="distill", **opening(options), **said)
        task = plugins().task_of(opened.contract)
        given = {"labels": labels, "student_classes": student_classes, "augment": augment}
        check_options(task, given | {"few": few, "batch_norm": batch_norm})
        interleaving = {"interleave": interleave, "interleave_filters": interleave_filters}
        check_options(task, interleaving)
        contract = with_classes(opened.contract, student_classes)
        networks = {"teacher": opened}
        if isinstance(student, nn.Module):
            networks["student"] = as_network(student, contract)
        made = network_named(student, weights=init_from, classes=student_classes)
        if "student" not in networks:
            rng = from_seed(child_seed(options.get("seed") or 0, "student"))
            learnt = resolve(made, like=contract, allow_code=allowed, rng=rng)
            networks["student"] = learnt.network
        learns = networks["student"]
        keeps = init_from is not None or from_scratch
        chosen = objective_named(objective) if isinstance(objective, Sequence) else objective
        inputs = MethodInputs(
            contract=contract,
            task=task.name,
            base=_transfer(transfer, task, contract, labels),
            without=frozenset(without),
            objective=chosen,
            few=_few(few, contract, options),
            facts=task.facts(opened, learns, given_weights=keeps),
        )
        recipe = _recipe(
            network_named(teacher, **said),
            made,
            inputs,
            task,
            method=method,
            labels=labels,
            own_label_space=student_classes is not None,
            augment=augment,
        )
        recipe = with_chosen_optimizer(recipe, learns, options)
        recipe = recipe if batch_norm is None else with_batch_norm(recipe, learns, batch_norm)
        return with_interleaving(recipe, interleave, interleave_filters), networks

    return run_recipe("distill", make, out, options, typed=[teacher, student])


def _recipe(
    teacher: NetworkRef,
    student: NetworkRef,
    given: MethodInputs,
    task: Task,
    *,
    method: str | None,
    labels: bool,
    own_label_space: bool,
    augment: str | None,
) -> Recipe:
    named = method or task.default_method(own_label_space=own_label_space)
    if labels and given.base is None:
        raise ValueError("--labels needs a labelled transfer set; name it with --transfer")
    if labels and given.few is not None:
        raise ValueError(
            "--labels needs a label for every image, and --few shows its own without; leave one out"
        )
    if labels or own_label_space:
        given = _not_by_answers(given, named)
    known = methods(task.name)
    if not labels and known[one_of("method", named, known)].needs == "labels":
        raise ValueError(f"{named} needs labels; name a labelled --transfer, and say --labels")
    recipe = published(named, teacher, student, given)
    if labels and given.objective is None and known[named].needs != "labels":
        recipe = _with_labels(recipe, own_label_space=own_label_space)
    if augment is not None:
        stages = tuple(
            replace(stage, source=augmented(stage.source, augment, given.image_contract))
            for stage in recipe.stages
        )
        recipe = replace(recipe, method="custom", stages=stages)
    return replace(recipe, own_label_space=own_label_space)


def _transfer(named: str | Source | None, task: Task, contract: Any, labels: bool) -> Source | None:
    if not isinstance(named, str):
        return named
    # Sources of images are for networks of images only; names of a task's data belong to that task.
    if contract.normalisation is None or task.owns_data(named):
        return task.transfer(named, contract, labels=labels)
    return source_named(named, labels=labels, contract=contract)


def _few(named: str | Few | None, contract: Any, options: TeachOptions) -> Few | None:
    """Return the source of a few real images, after reading them; `say` gets their notes."""
    if named is None:
        return None
    skip_bad = options.get("skip_bad", False)
    few = named if isinstance(named, Few) else Few(data=named, skip_bad=skip_bad)
    for note in few.read(contract).notes:
        if "say" in options:
            options["say"](f"--few: {note}")
    return few


def _not_by_answers(given: MethodInputs, method: str) -> MethodInputs:
    """Return the inputs without the parts of the recipe that do not work with labels.

    Balancing and attacks select images by the teacher's classes, independent of labels.
    """
    known = methods(given.task)
    parted = {"balance", "attack", "matching"} & {*known[one_of("method", method, known)].parts}
    return replace(given, without=given.without | parted)


def _with_labels(recipe: Recipe, *, own_label_space: bool) -> Recipe:
    """Return the recipe with labels as an additional target of its last stage.

    A student with its own classes learns from labels only, after earlier stages initialised it.
    """
    last = recipe.stages[-1]
    objective: AnyObjective = HardLabels()
    if not own_label_space or len(recipe.stages) == 1:
        terms = ((1 - _LABELS_WEIGHT, last.objective), (_LABELS_WEIGHT, objective))
        objective = Weighted(terms=terms)
    stages = (*recipe.stages[:-1], replace(last, objective=objective))
    return replace(recipe, method="custom", stages=stages)
