"""What `prune` and `quantize` share: a network in, a changed one out, a run's folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from understudy import pipeline
from understudy import recipe as recipe_file
from understudy.nets.network import Network
from understudy.nets.references import NetworkRef
from understudy.pipeline import Conduct
from understudy.protocols import InputContract
from understudy.recipe import Recipe, Verb
from understudy.verbs.naming import network_named, open_network, with_options


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every verb that changes a network is asked beside its own question.

    Args:
        told: weights, mean, std, size and classes that describe the network.
        options: of `naming.with_options`.
        conduct: of `pipeline.Conduct`.
    """

    verb: Verb
    model: str | NetworkRef | nn.Module | None
    recipe: str | Path | Recipe | None
    eval: str | None
    told: Mapping[str, Any]
    options: Mapping[str, Any]
    conduct: Mapping[str, Any]
    allow_code: Sequence[str] = ()


def run_changed(
    asked: Asked,
    out: str | Path,
    make: Callable[[NetworkRef, InputContract], Recipe],
) -> dict[str, Any]:
    """Carry out the recipe asked for, or the one that `make` makes for the network named."""
    networks: dict[str, Network] = {}
    if asked.recipe is not None:
        made = _read(asked.recipe, asked.verb)
    else:
        if asked.model is None:
            raise ValueError(f"{asked.verb} needs a network, or a recipe")
        say = asked.conduct["say"]
        networks["teacher"] = open_network(asked.model, say=say, **asked.told)
        reference = network_named(asked.model, **asked.told)
        made = make(reference, networks["teacher"].contract)
    made = with_options(replace(made, eval=asked.eval or made.eval), **asked.options)
    conduct = Conduct(
        allow_code=asked.allow_code if asked.recipe is not None else True,
        networks=networks,
        **asked.conduct,
    )
    return pipeline.run(made, Path(out), conduct)


def _read(recipe: str | Path | Recipe, verb: Verb) -> Recipe:
    made = recipe if isinstance(recipe, Recipe) else recipe_file.read(Path(recipe))
    if made.verb != verb:
        raise ValueError(f"the recipe is one of {made.verb}; run it with `understudy {made.verb}`")
    return made
