"""Common part of `prune`, `quantize` and `continual`: from a network to a changed one, in a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from doublure.core.protocols import InputContract
from doublure.engine.recipe import Recipe, Verb
from doublure.nets.references import NetworkRef
from doublure.verbs.naming import network_named, open_network
from doublure.verbs.run_options import Made, TeachOptions, description, opening, run_recipe


def run_changed(
    verb: Verb,
    recipe: Callable[[NetworkRef, InputContract], Recipe],
    model: str | NetworkRef | nn.Module | None,
    out: str | Path,
    options: TeachOptions,
) -> dict[str, Any]:
    """Run the given recipe, or the one that `recipe` returns for the named network."""

    def make() -> Made:
        if model is None:
            raise ValueError(f"{verb} needs a network, or a recipe")
        said = description(options)
        network = open_network(model, verb=verb, **opening(options), **said)
        return recipe(network_named(model, **said), network.contract), {"teacher": network}

    return run_recipe(verb, make, out, options, typed=[model])
