"""`train`: supervised training, of teachers and of whatever learns from labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from understudy import pipeline
from understudy import recipe as recipe_file
from understudy.data.natural import natural_contract
from understudy.data.parallel_text import names_text
from understudy.labelled_recipes import supervised
from understudy.loading import resolve
from understudy.nets.builtin import is_translator
from understudy.nets.network import Network
from understudy.nets.references import NetworkRef, parse
from understudy.pipeline import Conduct
from understudy.recipe import Recipe
from understudy.text_recipes import supervised_translation
from understudy.verbs.naming import as_network, network_named, permitted, with_options


def train(
    net: str | NetworkRef | nn.Module | None = None,
    data: str | None = None,
    *,
    out: str | Path,
    augment: str = "mild",
    eval: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
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
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None,
) -> dict[str, Any]:
    """Train `net` on labelled `data`, and return the summary of the run in `out`.

    Args:
        data: a class-per-folder directory, a SET or .npz with labels, or builtin/digits; or
            parallel text, as FOLDER:de-en.
        augment: what is done to the images, of `sources.augmenting.AUGMENTERS`.
        eval: labelled data to score on; never changes the network.
    """
    networks: dict[str, Network[Any]] = {}
    allowed = permitted(net, allow_code=allow_code)
    if recipe is not None:
        made = recipe if isinstance(recipe, Recipe) else recipe_file.read(Path(recipe))
    else:
        if net is None or data is None:
            raise ValueError("train needs a network and data, or a recipe")
        reference = network_named(
            net, weights=init_from, mean=mean, std=std, size=size, classes=classes
        )
        if isinstance(net, nn.Module):
            networks["student"] = as_network(net, None)
        if names_text(data):
            if augment != "mild":
                raise ValueError("--augment changes images, but the data are text; leave it away")
            if not networks:
                _check_translates(reference)
                reference = replace(reference, vocabulary=data)
            made = supervised_translation(reference, data)
        elif networks:
            made = supervised(reference, data, networks["student"].contract, augment=augment)
        else:
            # What neither the options nor the weights say, the data do.
            like = natural_contract(data)
            contract = resolve(reference, like=like, allow_code=allowed).network.contract
            reference = replace(
                reference,
                size=contract.size,
                channels=contract.channels,
                mean=contract.mean,
                std=contract.std,
                classes=contract.classes,
                names=contract.names,
            )
            made = supervised(reference, data, contract, augment=augment)
    made = with_options(
        replace(made, eval=eval or made.eval),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device,
        precision=precision,
        assignments=set,
    )
    conduct = Conduct(
        resume=resume,
        overwrite=overwrite,
        budget=budget,
        allow_code=allowed,
        networks=networks,
        tensorboard=tensorboard,
        checkpoint_seconds=checkpoint_seconds,
        say=say,
        watch=watch,
    )
    return pipeline.run(made, Path(out), conduct)


def _check_translates(reference: NetworkRef) -> None:
    parsed = parse(reference.ref)
    if parsed.kind != "builtin" or not is_translator(parsed.target):
        raise ValueError(
            f"{reference.ref} is trained on images, and these data are text; use "
            "builtin/translator-2, or another number of layers"
        )
