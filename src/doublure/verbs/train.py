"""`train`: supervised training, of teachers and of whatever learns from labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from doublure.core.protocols import InputContract
from doublure.data.natural import natural_contract
from doublure.engine.loading import resolve
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef, parse
from doublure.tasks.classification.recipes import supervised
from doublure.tasks.translation.networks import is_translator
from doublure.tasks.translation.parallel_text import names_text
from doublure.tasks.translation.recipes import supervised_translation
from doublure.verbs.naming import as_network, network_named, permitted
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
    augment: str = "mild",
    init_from: str | None = None,
    **options: Unpack[TrainOptions],
) -> dict[str, Any]:
    """Train `net` on labelled `data`, and return the summary of the run in `out`.

    Args:
        data: a class-per-folder directory, a SET or .npz with labels, or builtin/digits; or
            parallel text, as FOLDER:de-en.
        augment: what is done to the images, of `sources.augmenting.AUGMENTERS`.
        options: of `verbs.run_options.TrainOptions`.
    """
    allowed = permitted(net, allow_code=options.get("allow_code", ()))

    def make() -> Made:
        if net is None or data is None:
            raise ValueError("train needs a network and data, or a recipe")
        reference = network_named(net, weights=init_from, **description(options))
        networks = {}
        if isinstance(net, nn.Module):
            networks["student"] = as_network(net, None)
        if names_text(data):
            if augment != "mild":
                raise ValueError("--augment changes images, but the data are text; leave it away")
            if not networks:
                _check_translates(reference)
                reference = replace(reference, vocabulary=data)
            return supervised_translation(reference, data), networks
        if networks:
            learns = networks["student"]
        else:
            learns = _described(reference, data, allowed, skip_bad=options.get("skip_bad", False))
            reference = _with(reference, learns.contract)
        recipe = supervised(reference, data, learns.contract, augment=augment)
        return with_chosen_optimizer(recipe, learns, options), networks

    return run_recipe("train", make, out, options, typed=[net])


def _described(
    reference: NetworkRef, data: str, allowed: Sequence[str], *, skip_bad: bool
) -> Network[InputContract]:
    """Return the network; what it and its weights do not say of what it takes, data do."""
    like = natural_contract(data, skip_bad=skip_bad)
    return resolve(reference, like=like, allow_code=allowed).network


def _with(reference: NetworkRef, contract: InputContract) -> NetworkRef:
    """Return the reference with all that the network takes."""
    said = ("size", "channels", "mean", "std", "classes", "names")
    return replace(reference, **{name: getattr(contract, name) for name in said})


def _check_translates(reference: NetworkRef) -> None:
    parsed = parse(reference.ref)
    if parsed.kind != "builtin" or not is_translator(parsed.target):
        raise ValueError(
            f"{reference.ref} is trained on images, and these data are text; use "
            "builtin/translator-2, or another number of layers"
        )
