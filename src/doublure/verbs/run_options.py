"""Options shared by verbs, and the run of a verb's recipe."""

import time
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
from doublure.engine.recipe import Recipe, Verb
from doublure.engine.run_options import RunOptions
from doublure.nets.network import Network
from doublure.nets.references import parse
from doublure.reports.page import write_report
from doublure.verbs.naming import permitted, with_options

Made = tuple[Recipe, Mapping[str, Network[Any]]]


class InputOptions(TypedDict, total=False):
    """Input contract of the network, if nothing else states it.

    Args:
        mean: mean of each channel, for images in [0, 1].
        std: standard deviation likewise.
        size: height and width, or one number for both.
        classes: their number, or a file with one name per line.
    """

    mean: Sequence[float] | None
    std: Sequence[float] | None
    size: int | tuple[int, int] | None
    classes: int | str | None


class NetworkOptions(InputOptions, total=False):
    """Description of the network; see `NetworkRef`.

    Args:
        weights: a file of weights.
        weights_key: key of the weights if the file has several sets.
    """

    weights: str | None
    weights_key: str | None


class CommonOptions(TypedDict, total=False):
    """Options of every run; the recipe has the defaults.

    Args:
        recipe: a recipe to re-run, in place of networks, data and method.
        eval: labelled evaluation data; never affects the student.
        skip_bad: skip unreadable image files instead of raising.
        steps: optimizer steps, distributed over stages.
        budget: seconds of wall time for everything, report included, in place of steps.
        began: start of the budget, by `time.perf_counter`; None for the call.
        batch_size: images or sentences per step.
        lr: the peak learning rate.
        seed: random seed.
        device: "cpu", "cuda", or "auto".
        precision: "float32" or "bfloat16".
        set: fields of the recipe by key, as texts; see `recipe_file.replace_keys`.
        resume: resume the run in the folder, or start it.
        overwrite: replace the run in the folder.
        allow_code: files whose code a recipe or a run's folder may run.
        tensorboard: also write curves for TensorBoard.
        checkpoint_seconds: time between two checkpoints.
        say: callback for log messages.
        watch: callback for the number of steps and each line of the metrics log.
    """

    recipe: str | Path | Recipe | None
    eval: str | None
    skip_bad: bool
    steps: int | None
    budget: float | None
    began: float | None
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
    """Options of `train`: `CommonOptions` and `InputOptions`."""


class TeachOptions(CommonOptions, NetworkOptions, total=False):
    """Options of verbs with a teacher: `CommonOptions`, `NetworkOptions` and more.

    Args:
        audit: whether the report has the audit of the transfer set, or the path of its
            optimisation.
    """

    audit: bool


def description(options: TrainOptions | TeachOptions) -> dict[str, Any]:
    """Return the options that describe a network."""
    given: dict[str, Any] = {**options}
    return {name: given[name] for name in NetworkOptions.__annotations__ if name in given}


def opening(options: TrainOptions | TeachOptions) -> dict[str, Any]:
    """Return the loading options: the callback for notes, and code that may run."""
    given: dict[str, Any] = {**options}
    return {name: given[name] for name in ("say", "allow_code") if name in given}


def with_chosen_optimizer(
    recipe: Recipe, student: nn.Module, options: TrainOptions | TeachOptions
) -> Recipe:
    """Return the recipe with an optimizer that suits the student, with a message."""
    made = choose_optimizer(recipe, student)
    if made != recipe and "say" in options:
        options["say"](
            "the student has LayerNorm and no BatchNorm: AdamW at "
            f"{made.stages[-1].fit.learning_rate:g} instead of SGD; --set optimizer=sgd restores it"
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
    """Run the given recipe, or else the one from `make`, and return the summary.

    Args:
        make: returns a recipe and its loaded networks, by role.
        typed: the networks that the user named; the code of a `file:` among them may run.

    Raises:
        TypeError: the verb has no such option.
    """
    began = time.perf_counter()
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
    run_options["began"] = given.get("began") or began
    known_parts = plugins()
    codec = known_parts.codec.permitting(made, allowed)
    known_parts = replace(known_parts, codec=codec)
    summary = pipeline.run(
        made, Path(out), RunOptions(**run_options | {"networks": networks}), known_parts
    )
    if summary:  # the first of several processes has it
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
