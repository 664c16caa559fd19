"""The options that several verbs share, each written once; None means: as the recipe says.

Nothing here may import torch, so that --help answers at once. Names and defaults that the help
shows come from reference.json, which a test keeps true to the catalogue.
"""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from doublure.core.checks import one_of

REFERENCE: dict[str, Any] = json.loads(
    resources.files("doublure.cli").joinpath("reference.json").read_text(encoding="utf-8")
)


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a text such as "0.5,0.5,0.5"."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers with commas, as 0.5,0.5,0.5; got '{text}'"
        ) from None


def size(text: str) -> tuple[int, int]:
    """Return height and width of a text such as "32" or "180x240"."""
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise typer.BadParameter(f"expected pixels, as 32 or 180x240; got '{text}'")
    return sides[0], sides[-1]


def seconds(text: str) -> float:
    """Return the seconds of a text such as "90s", "20m" or "1.5h"."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"expected a time with s, m or h, as 20m; got '{text}'")
    return value


def seed(text: str) -> int:
    """Return the seed of a text; torch takes those of 63 bits."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise typer.BadParameter(f"expected a whole number from 0 to 2^63 - 1, got '{text}'")
    return int(text)


def assignment(text: str) -> tuple[str, str]:
    """Return key and value of a text KEY=VALUE."""
    key, mark, value = text.partition("=")
    if not key or not mark:
        raise typer.BadParameter(f"expected KEY=VALUE, got '{text}'")
    return key, value


def known(name: str, kind: str, text: str, way_out: str = "") -> str:
    """Return `text` if the reference has it under `kind`; refuse it with the nearest name."""
    try:
        return one_of(name, text, REFERENCE[kind], way_out=way_out)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


# A user's own class, as `engine.foreign_parts` reads it: package.module:Class or file.py:Class.
_CLASS = re.compile(r"(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*")

# Data of a task's own kind; only the task knows whether they are there.
_KIND_OF_TASK = re.compile(r"[a-z][a-z0-9-]+:.+")


def source(text: str) -> str:
    """Return the text of a source's name, class, or of a path that is there; refuse any other."""
    if _CLASS.fullmatch(text) or _KIND_OF_TASK.fullmatch(text):
        return text
    path = Path(text.partition(":")[0])
    if (
        text.startswith("builtin/")
        or Path(text).exists()
        or any(path.parent.glob(f"{path.name}.*"))
    ):
        return text
    return known("source", "sources", text, "; or the path of an image folder, a SET or a .npz")


def formats(text: str) -> list[str]:
    """Return the formats of a text such as "onnx,pt2"."""
    return [known("format", "formats", name.strip()) for name in text.split(",")]


def _method(text: str) -> str:
    return known("method", "methods", text)


def _generator(text: str) -> str:
    return known("generator", "generators", text)


def _part(text: str) -> str:
    return known("part of the recipe", "parts", text)


def _augmentation(text: str) -> str:
    return known("augmentation", "augmentations", text)


def _objective(text: str) -> str:
    name = text.partition("=")[0]
    if not _CLASS.fullmatch(name):
        known("objective", "objectives", name)
    return text


def _precision(text: str) -> str:
    return known("precision", "precisions", text)


def _names(kind: str) -> str:
    return ", ".join(REFERENCE[kind])


_NETWORK, _RUN, _TRAINING = "The network", "The run", "The training"

Teacher = Annotated[str | None, typer.Option(help="REF of the teacher.", metavar="REF")]
Student = Annotated[str | None, typer.Option(help="REF of the student.", metavar="REF")]
StudentClasses = Annotated[
    str | None,
    typer.Option(
        metavar="N|FILE",
        help="The student's own, how many or a file of names, where they are not the teacher's.",
    ),
]
Net = Annotated[str | None, typer.Option(help="REF of the network to train.", metavar="REF")]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Labelled images: a folder a class, SET, .npz, builtin/digits; or text: DIR:de-en.",
    ),
]
Generator = Annotated[
    str,
    typer.Argument(parser=_generator, metavar="METHOD", help=f"Of {_names('generators')}."),
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="DATA", help="Images to learn from: a folder, SET, .npz or builtin/digits."
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(min=1, max=3, metavar="N", help="1 or 3.", rich_help_panel=_NETWORK),
]
Model = Annotated[str, typer.Option(help="REF of the network, or a run's folder.", metavar="REF")]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Its weights: .safetensors .pt .pth .th .pt2",
        rich_help_panel=_NETWORK,
    ),
]
Mean = Annotated[
    Any,
    typer.Option(
        parser=numbers,
        metavar="R,G,B",
        help="Per channel, of [0, 1] images.",
        rich_help_panel=_NETWORK,
    ),
]
Std = Annotated[
    Any,
    typer.Option(
        parser=numbers,
        metavar="R,G,B",
        help="Per channel, of [0, 1] images.",
        rich_help_panel=_NETWORK,
    ),
]
Size = Annotated[
    Any,
    typer.Option(parser=size, metavar="S|HxW", help="Input pixels.", rich_help_panel=_NETWORK),
]
Classes = Annotated[
    str | None,
    typer.Option(metavar="N|FILE", help="How many, or a file of names.", rich_help_panel=_NETWORK),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; must not exist.")]
Eval = Annotated[
    str | None,
    typer.Option(help="Labelled data to score on; never changes the student.", metavar="DATA"),
]
Method = Annotated[
    str | None,
    typer.Option(
        parser=_method,
        metavar="NAME",
        help=f"Published recipe: {_names('methods')} (default: auto; of text, sequence-kd).",
    ),
]
Transfer = Annotated[
    str | None,
    typer.Option(
        parser=source,
        metavar="SOURCE",
        help=f"What to show: {_names('sources')}; or images or text on disk.",
    ),
]
Objective = Annotated[
    list[str],
    typer.Option(
        parser=_objective,
        metavar="NAME[=WEIGHT]",
        help=f"Of {_names('objectives')}; several are summed.",
    ),
]
Without = Annotated[
    list[str],
    typer.Option(
        parser=_part, metavar="PART", help=f"Leave a part of the recipe out: {_names('parts')}."
    ),
]
Augment = Annotated[
    str | None,
    typer.Option(
        parser=_augmentation,
        metavar="NAME",
        help=f"In place of the recipe's own augmentation: {_names('augmentations')}.",
    ),
]
Labels = Annotated[
    bool, typer.Option("--labels", metavar="", help="Use the transfer set's labels, too.")
]
RecipeFile = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="Run a recipe.toml again.",
        rich_help_panel=_RUN,
    ),
]
InitFrom = Annotated[
    str | None,
    typer.Option(metavar="WEIGHTS", help="Weights to start from.", rich_help_panel=_RUN),
]
FromScratch = Annotated[
    bool,
    typer.Option(
        "--from-scratch",
        help="Random weights, where the student could begin at its teacher.",
        rich_help_panel=_RUN,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help=f"Optimizer steps (default {REFERENCE['steps']}).",
        rich_help_panel=_TRAINING,
    ),
]
StageSteps = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help=f"Optimizer steps of each stage (default {REFERENCE['steps']}).",
        rich_help_panel=_TRAINING,
    ),
]
StageBatchSize = Annotated[
    int | None,
    typer.Option(
        min=2, metavar="N", help="Images a step (default: as published).", rich_help_panel=_TRAINING
    ),
]
Budget = Annotated[
    Any,
    typer.Option(
        parser=seconds,
        metavar="TIME",
        help="In place of steps: 90s, 20m, 1.5h.",
        rich_help_panel=_TRAINING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help=f"Images a step (default {REFERENCE['batch_size']}).",
        rich_help_panel=_TRAINING,
    ),
]
Lr = Annotated[
    float | None,
    typer.Option(metavar="RATE", help="Peak learning rate.", rich_help_panel=_TRAINING),
]
Seed = Annotated[
    int | None,
    typer.Option(
        parser=seed,
        metavar="N",
        help="Of all that is random (default 0).",
        rich_help_panel=_TRAINING,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu, cuda, or auto (default).", rich_help_panel=_TRAINING),
]
Precision = Annotated[
    str | None,
    typer.Option(
        parser=_precision,
        metavar="NAME",
        help=f"{_names('precisions')} (default: the faster one here).",
        rich_help_panel=_TRAINING,
    ),
]
Set = Annotated[
    list[Any],
    typer.Option(
        "--set",
        parser=assignment,
        metavar="KEY=VALUE",
        help="Any field of the recipe.",
        rich_help_panel=_RUN,
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", metavar="", help="Go on with what is in --out.", rich_help_panel=_RUN),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", metavar="", help="Replace what is in --out.", rich_help_panel=_RUN),
]
AllowCode = Annotated[
    list[str],
    typer.Option(
        metavar="FILE",
        help="A file whose code a recipe or a run may run.",
        rich_help_panel=_NETWORK,
    ),
]
TensorBoard = Annotated[
    bool,
    typer.Option(
        "--tensorboard", metavar="", help="Write curves for TensorBoard, too.", rich_help_panel=_RUN
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", metavar="", help="Print one JSON object and nothing else."),
]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", metavar="", help="Leave unreadable images out, and count them."),
]


def sources_help() -> str:
    """Return what SOURCE may be, for a help text."""
    return f"{_names('sources')}; or a folder of images, a SET, a .npz."
