"""The options that verbs share, and the run that a verb's recipe becomes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from doublure import recipe_file
from doublure.catalogue import plugins
from doublure.core.checks import nearest
from doublure.engine import pipeline
from doublure.engine.method import choose_optimizer
from doublure.engine.pipeline import RunOptions
from doublure.engine.recipe import Recipe, Verb
from doublure.nets.network import Network
from doublure.nets.references import parse
from doublure.reports.page import write_report
from doublure.verbs.naming import permitted, with_options

Made = tuple[Recipe, Mapping[str, Network[Any]]]


class InputOptions(TypedDict, total=False):
    """What the images of the network that a verb is given are like, where nothing else says it.

    Args:
        mean: per channel, of images in [0, 1].
        std: likewise.
        size: height and width, or one number for both.
        classes: how many, or a file with one name a line.
    """

    mean: Sequence[float] | None
    std: Sequence[float] | None
    size: int | tuple[int, int] | None
    classes: int | str | None


class NetworkOptions(InputOptions, total=False):
    """What describes the network that a verb is given; see `NetworkRef`.

    Args:
        weights: a file.
    """

    weights: str | None


class CommonOptions(TypedDict, total=False):
    """What every run can be asked for; what is not said, the recipe says.

    Args:
        recipe: a recipe to run again, in place of networks, data and method.
        eval: labelled data to score on; never changes the student.
        skip_bad: leave unreadable image files out instead of raising.
        steps: of the optimizer; several stages share them.
        budget: seconds, in place of steps.
        batch_size: images, or sentences, a step.
        lr: the peak learning rate.
        seed: of all that is random.
        device: "cpu", "cuda", or "auto".
        precision: "float32" or "bfloat16".
        set: fields of the recipe by key, as texts; see `recipe.replace_keys`.
        resume: go on with the run in the folder, or begin it.
        overwrite: replace what is in the folder.
        allow_code: files whose code a recipe or a run's folder may run.
        tensorboard: also write curves for TensorBoard.
        checkpoint_seconds: time between two checkpoints.
        say: is told lines worth a person's eye.
        watch: is told the number of steps and each line of the metrics log.
    """

    recipe: str | Path | Recipe | None
    eval: str | None
    skip_bad: bool
    steps: int | None
    budget: float | None
    batch_size: int | None
    lr: float | None
    seed: int | None
    device: str | None
    precision: str | None
    set: Mapping[str, str] | None
    resume: bool
    overwrite: bool
    allow_code: Sequence[str]
    tensorboard: bool
    checkpoint_seconds: float
    say: Callable[[str], None]
    watch: Callable[[int, dict[str, Any]], None]


class TrainOptions(CommonOptions, InputOptions, total=False):
    """What `train` shares with other verbs: `CommonOptions` and `InputOptions`."""


class TeachOptions(CommonOptions, NetworkOptions, total=False):
    """What the verbs share in which a network teaches: `CommonOptions`, `NetworkOptions` and more.

    Args:
        audit: whether the transfer set is scored, or its search followed, for the report.
    """

    audit: bool


def description(options: TrainOptions | TeachOptions) -> dict[str, Any]:
    """Return what the options say of a network."""
    given: dict[str, Any] = {**options}
    return {name: given[name] for name in NetworkOptions.__annotations__ if name in given}


def opening(options: TrainOptions | TeachOptions) -> dict[str, Any]:
    """Return how a person wants a network opened: who is told, and what code may run."""
    given: dict[str, Any] = {**options}
    return {name: given[name] for name in ("say", "allow_code") if name in given}


def with_chosen_optimizer(
    recipe: Recipe, student: nn.Module, options: TrainOptions | TeachOptions
) -> Recipe:
    """Return the recipe with an optimizer by which such a student learns; a person is told."""
    made = choose_optimizer(recipe, student)
    if made != recipe and "say" in options:
        options["say"](
            "the student normalises layers, not batches: AdamW at "
            f"{made.stages[-1].fit.learning_rate:g} in place of SGD; --set optimizer=sgd goes back"
        )
    return made


def run_recipe(
    verb: Verb,
    make: Callable[[], Made],
    out: str | Path,
    options: TrainOptions | TeachOptions,
    *,
    typed: Sequence[Any],
) -> dict[str, Any]:
    """Carry out the recipe asked for, or else the one that `make` makes, and return the summary.

    Args:
        make: returns a recipe and the networks that were opened for it, by role.
        typed: the networks that a person named; the code of a `file:` among them may run.

    Raises:
        TypeError: the verb has no such option.
    """
    given: dict[str, Any] = {**options}
    known = (TrainOptions if verb == "train" else TeachOptions).__annotations__
    for name in given.keys() - known.keys():
        hint = nearest(name, known)
        raise TypeError(f"{verb}() got an unexpected keyword argument '{name}'{hint}")
    recipe = given.get("recipe")
    allowed = permitted(*typed, allow_code=given.get("allow_code", ()))
    asked, networks = make() if recipe is None else (_read(recipe, verb, allowed), {})
    made = with_options(
        replace(asked, eval=given.get("eval") or asked.eval),
        skip_bad=given.get("skip_bad", False),
        assignments=given.get("set"),
        **{name: given.get(name) for name in ("steps", "batch_size", "lr", "seed")},
        **{name: given.get(name) for name in ("device", "precision")},
    )
    same = made.student == asked.student and made.seed == (given.get("seed") or asked.seed)
    if not same and parse(asked.student.ref).kind != "python":
        # --set asked for another student, or for other weights, than the one that was built.
        networks = {role: network for role, network in networks.items() if role != "student"}
    run_options = {item.name: given[item.name] for item in fields(RunOptions) if item.name in given}
    run_options["allow_code"] = allowed
    known_parts = plugins()
    codec = known_parts.codec.permitting(made, allowed)
    known_parts = replace(known_parts, codec=codec)
    summary = pipeline.run(
        made, Path(out), RunOptions(**run_options | {"networks": networks}), known_parts
    )
    if summary:  # of several processes the first one has it
        write_report(Path(out))
    return summary


def _read(recipe: str | Path | Recipe, verb: Verb, allow_code: Sequence[str]) -> Recipe:
    if isinstance(recipe, Recipe):
        made = recipe
    else:
        made = recipe_file.read(Path(recipe), allow_code=allow_code)
    if made.verb != verb:
        raise ValueError(f"the recipe is one of {made.verb}; run it with `doublure {made.verb}`")
    return made
