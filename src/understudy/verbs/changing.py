"""What `prune`, `quantize` and `continual` share: a network in, a changed one out, a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from understudy.verbs.naming import network_named, open_network, permitted, with_options


def run_changed(
    verb: Verb,
    make: Callable[[NetworkRef, InputContract], Recipe],
    *,
    model: str | NetworkRef | nn.Module | None,
    out: str | Path,
    recipe: str | Path | Recipe | None,
    eval: str | None,
    weights: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    size: int | tuple[int, int] | None,
    classes: int | str | None,
    skip_bad: bool,
    steps: int | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    device: str | None,
    precision: str | None,
    set: Mapping[str, str] | None,
    allow_code: Sequence[str],
    say: Callable[[str], None],
    **conduct: Any,
) -> dict[str, Any]:
    """Carry out the recipe asked for, or the one that `make` makes for the network named.

    Args:
        steps: in place of those of a recipe that was asked for; `make` knows them already.
        conduct: further fields of `pipeline.Conduct`.
    """
    networks: dict[str, Network] = {}
    if recipe is not None:
        made = _read(recipe, verb)
    else:
        if model is None:
            raise ValueError(f"{verb} needs a network, or a recipe")
        said: dict[str, Any] = {"weights": weights, "mean": mean, "std": std}
        said |= {"size": size, "classes": classes}
        networks["teacher"] = open_network(model, say=say, allow_code=allow_code, **said)
        made = make(network_named(model, **said), networks["teacher"].contract)
    made = with_options(
        replace(made, eval=eval or made.eval),
        steps=None if recipe is None else steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device,
        precision=precision,
        skip_bad=skip_bad,
        assignments=set,
    )
    return pipeline.run(
        made,
        Path(out),
        Conduct(
            allow_code=permitted(model, allow_code=allow_code),
            networks=networks,
            skip_bad=skip_bad,
            say=say,
            **conduct,
        ),
    )


def _read(recipe: str | Path | Recipe, verb: Verb) -> Recipe:
    made = recipe if isinstance(recipe, Recipe) else recipe_file.read(Path(recipe))
    if made.verb != verb:
        raise ValueError(f"the recipe is one of {made.verb}; run it with `understudy {made.verb}`")
    return made
