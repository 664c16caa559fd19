"""`distill`: the main job. Teacher + transfer set + objective -> student."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from doublure.core.checks import one_of
from doublure.core.protocols import InputContract, Source, TextContract
from doublure.engine.loading import resolve
from doublure.engine.method import Facts, MethodInputs
from doublure.engine.recipe import Recipe
from doublure.nets.references import NetworkRef
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.recipes import METHODS, published
from doublure.sources.augmenting import augmented
from doublure.tasks.classification.auto import network_facts
from doublure.tasks.translation.sentences import Sentences
from doublure.verbs.naming import (
    as_network,
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
    init_from: str | None = None,
    from_scratch: bool = False,
    **options: Unpack[TeachOptions],
) -> dict[str, Any]:
    """Make `student` do what `teacher` does, and return the summary of the run in `out`.

    Args:
        teacher: a REF or a module, which the options describe.
        method: a published recipe, None for `auto` (of text: `sequence-kd`); transfer, objective
            and without swap parts of it.
        labels: use the labels of the transfer set beside the teacher.
        student_classes: the student's own, where they are not the teacher's: how many, or a file
            with one name a line. Layers alone are compared then.
        augment: an augmentation in place of the recipe's own, of `sources.augmenting.AUGMENTERS`.
        init_from: weights the student starts from.
        from_scratch: let it start from random weights where it could begin at its teacher.
        options: of `verbs.run_options.TeachOptions`.
    """
    allowed = permitted(student, allow_code=options.get("allow_code", ()))

    def make() -> Made:
        if teacher is None or student is None:
            raise ValueError("distill needs a teacher and a student, or a recipe")
        said = description(options)
        opened = open_network(teacher, text=True, **opening(options), **said)
        contract = with_classes(opened.contract, student_classes)
        networks = {"teacher": opened}
        if isinstance(student, nn.Module):
            networks["student"] = as_network(student, contract)
        made = network_named(student, weights=init_from, classes=student_classes)
        learns = networks.get("student") or resolve(made, like=contract, allow_code=allowed).network
        facts = Facts()
        if isinstance(contract, InputContract):
            facts = network_facts(
                opened, learns, given_weights=init_from is not None or from_scratch
            )
        recipe = _recipe(
            network_named(teacher, **said),
            made,
            contract,
            facts,
            method=method,
            transfer=transfer,
            objective=objective,
            without=without,
            labels=labels,
            own_label_space=student_classes is not None,
            augment=augment,
        )
        return with_chosen_optimizer(recipe, learns, options), networks

    return run_recipe("distill", make, out, options, typed=[teacher, student])


def _recipe(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract | TextContract,
    facts: Facts,
    *,
    method: str | None,
    transfer: str | Source | None,
    objective: Sequence[str] | AnyObjective,
    without: Sequence[str],
    labels: bool,
    own_label_space: bool,
    augment: str | None,
) -> Recipe:
    text = isinstance(contract, TextContract)
    # Labels of classes that the teacher does not know are learned from images as they are.
    named = method or ("sequence-kd" if text else "shader-kd" if own_label_space else "auto")
    chosen = objective_named(objective) if isinstance(objective, Sequence) else objective
    given = MethodInputs(
        contract=contract,
        base=_transfer(transfer, contract, labels),
        without=frozenset(without),
        objective=chosen,
        facts=facts,
    )
    image_contract = {
        "--labels": labels,
        "--student-classes": own_label_space,
        "--augment": augment is not None,
    }
    if text and any(image_contract.values()):
        option = next(name for name, said in image_contract.items() if said)
        raise ValueError(f"{option} is for images, but the teacher translates; leave it away")
    if labels and given.base is None:
        raise ValueError("--labels needs a labelled transfer set; name it with --transfer")
    if labels or own_label_space:
        given = _not_by_answers(given, named)
    if not labels and METHODS[one_of("method", named, METHODS)].needs == "labels":
        raise ValueError(f"{named} needs labels; name a labelled --transfer, and say --labels")
    recipe = published(named, teacher, student, given)
    if labels and chosen is None and METHODS[named].needs != "labels":
        recipe = _with_labels(recipe, own_label_space=own_label_space)
    if augment is not None:
        stages = tuple(
            replace(stage, source=augmented(stage.source, augment, given.image_contract))
            for stage in recipe.stages
        )
        recipe = replace(recipe, method="custom", stages=stages)
    return replace(recipe, own_label_space=own_label_space)


def _transfer(
    named: str | Source | None, contract: InputContract | TextContract, labels: bool
) -> Source | None:
    if not isinstance(named, str):
        return named
    if isinstance(contract, TextContract):
        return Sentences(data=named)
    return source_named(named, labels=labels, contract=contract)


def _not_by_answers(given: MethodInputs, method: str) -> MethodInputs:
    """Return what is given, without the parts that would part images from their labels.

    Balancing and attacks choose images by the teacher's classes; labels are not asked.
    """
    parted = {"balance", "attack", "matching"} & {*METHODS[one_of("method", method, METHODS)].parts}
    return replace(given, without=given.without | parted)


def _with_labels(recipe: Recipe, *, own_label_space: bool) -> Recipe:
    """Return the recipe with labels beside what its last stage matches.

    A student with classes of its own learns them alone, once earlier stages have initialised it.
    """
    last = recipe.stages[-1]
    objective: AnyObjective = HardLabels()
    if not own_label_space or len(recipe.stages) == 1:
        terms = ((1 - _LABELS_WEIGHT, last.objective), (_LABELS_WEIGHT, objective))
        objective = Weighted(terms=terms)
    stages = (*recipe.stages[:-1], replace(last, objective=objective))
    return replace(recipe, method="custom", stages=stages)
