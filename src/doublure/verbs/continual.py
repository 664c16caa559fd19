"""`continual`: new classes for a trained network, without the data of the old ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

from torch import nn

from doublure.compress.expand_classifier import ExpandClassifier
from doublure.core.checks import one_of
from doublure.core.protocols import InputContract, Source
from doublure.data.natural import count_classes
from doublure.engine.recipe import ModelTransform, Recipe
from doublure.nets.references import NetworkRef
from doublure.objectives.continual import Continual
from doublure.recipes import smaller
from doublure.sources.rehearsed import Rehearsed
from doublure.tasks.classification.recipes import supervised
from doublure.verbs.changing import run_changed
from doublure.verbs.naming import source_named
from doublure.verbs.run_options import TeachOptions

Strategy = Literal["rehearsal", "lwf", "plain"]
STEPS = 2000


def continual(
    model: str | NetworkRef | nn.Module | None = None,
    data: str | None = None,
    *,
    out: str | Path,
    strategy: Strategy = "rehearsal",
    transfer: str | Source | None = None,
    train_batchnorm: bool = False,
    **options: Unpack[TeachOptions],
) -> dict[str, Any]:
    """Train `model` on the new classes of `data`, and return the run's summary.

    Args:
        data: labelled images of the new classes: a folder for each, or a SET or .npz whose labels
            count on from the old classes.
        strategy: "rehearsal" distils the old network on transfer images and on new ones, "lwf" on
            new ones only, "plain" not at all.
        transfer: substitute for the old data, in place of shader images.
        train_batchnorm: update BatchNorm statistics during the training.
        eval: labelled data of old and new classes, with separate scores.
        options: of `verbs.run_options.TeachOptions`.
    """
    one_of("strategy", strategy, get_args(Strategy))
    if transfer is not None and strategy != "rehearsal":
        raise ValueError(f"strategy '{strategy}' shows no transfer set; leave transfer out")

    steps = options.get("steps")

    def make(reference: NetworkRef, contract: InputContract) -> Recipe:
        if data is None:
            raise ValueError("continual needs labelled images of new classes")
        num_new, names = new_classes(data, contract)
        change = ModelTransform(transform=ExpandClassifier(num_new=num_new, names=names))
        made = smaller(
            "continual",
            reference,
            contract,
            [change],
            transfer=None if transfer is None else source_named(transfer, contract=contract),
            steps=STEPS if steps is None else steps,
            train_batchnorm=train_batchnorm,
        )
        new = supervised(reference, data, contract).stages[0].source
        objective = Continual(
            lwf=0.0 if strategy == "plain" else Continual.lwf,
            rehearsal=Continual.rehearsal if strategy == "rehearsal" else 0.0,
        )
        shown: Source = new
        if strategy == "rehearsal":
            shown = Rehearsed(source=made.stages[0].source, new=new)
        stage = replace(made.stages[0], source=shown, objective=objective)
        return replace(made, stages=(stage,))

    return run_changed("continual", make, model, out, {**options, "audit": False})


def new_classes(data: str, old: InputContract) -> tuple[int, tuple[str, ...] | None]:
    """Return the number of new classes in the data, and their names if they have any.

    Raises:
        ValueError: there are none.
    """
    names, count = count_classes(data)
    if names is not None:
        known = {name.lower() for name in old.names or ()}
        names = tuple(name for name in names if name.lower() not in known)
        count = len(names)
    else:
        count -= old.classes
    if count < 1:
        way_out = "labels of a SET or .npz must count on from them"
        raise ValueError(f"{data} adds no class to the {old.classes} old ones; {way_out}")
    return count, names
