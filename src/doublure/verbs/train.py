"""`train`: supervised training."""

from pathlib import Path
from typing import Any, Unpack

from torch import nn

from doublure.catalogue import plugins
from doublure.engine.task import TrainInputs
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipes import with_batch_norm, with_interleaving
from doublure.verbs.naming import as_network, check_options, network_named, permitted
from doublure.verbs.run_options import (
    Made,
    TrainOptions,
    description,
    run_recipe,
    with_chosen_optimizer,
)


def train(
    net: str | NetworkRef | nn.Module | None = None,
    data: str | None = None,
    *,
    out: str | Path,
    augment: str | None = None,
    batch_norm: str | None = None,
    interleave: float | None = None,
    interleave_filters: str | None = None,
    init_from: str | None = None,
    **options: Unpack[TrainOptions],
) -> dict[str, Any]:
    """Train `net` on labelled `data`, and return the summary of the run in `out`.

    Args:
        data: a class-per-folder directory, a SET or .npz with labels, or builtin/digits; or
            parallel text, as FOLDER:de-en.
        augment: augmentation of the images, of `sources.augmenting.AUGMENTERS`; None for mild.
        batch_norm: initialisation and training of BatchNorm: of
            `recipes.BATCH_NORMS`; see `recipes.with_batch_norm`.
        interleave: share of the steps with images of half the size; see `sources.interleaved`.
        interleave_filters: filters in those steps: split, mean, max or none.
        init_from: initial weights.
        options: of `verbs.run_options.TrainOptions`.
    """
    allowed = permitted(net, allow_code=options.get("allow_code", ()))

    def make() -> Made:
        if net is None or data is None:
            raise ValueError("train needs a network and data, or a recipe")
        task = plugins().task_of_data(data)
        given = {"augment": augment, "batch_norm": batch_norm, "interleave": interleave}
        check_options(task, given | {"interleave_filters": interleave_filters})
        network = as_network(net, None) if isinstance(net, nn.Module) else None
        inputs = TrainInputs(
            reference=network_named(net, weights=init_from, **description(options)),
            network=network,
            data=data,
            load=load,
            augment=augment,
            allow_code=allowed,
            skip_bad=options.get("skip_bad", False),
        )
        recipe, learns = task.train_recipe(inputs)
        if learns is not None:
            recipe = with_chosen_optimizer(recipe, learns, options)
            recipe = recipe if batch_norm is None else with_batch_norm(recipe, learns, batch_norm)
        recipe = with_interleaving(recipe, interleave, interleave_filters)
        return recipe, {} if network is None else {"student": network}

    return run_recipe("train", make, out, options, typed=[net])
