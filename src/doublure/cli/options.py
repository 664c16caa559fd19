"""How each option of the command line looks: what it takes, its help, its place in the help.

Which options a verb has, their order and their defaults are those of its function in `verbs`, as
reference.json has them; `cli.commands` joins the two. A row serves every verb with a parameter of
that name; "VERB.NAME" is the row of one verb alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doublure.cli import parsing
from doublure.cli.parsing import REFERENCE, one_known

# Parameters of the functions that are not for a terminal, which shows progress its own way.
OF_PYTHON = frozenset({"say", "watch", "checkpoint_seconds", "audit"})

# Groups of options, in the order of the help.
PANELS = ("The change", "The network", "The training", "The run")
_CHANGE, _NETWORK, _TRAINING, _RUN = PANELS


@dataclass(frozen=True, kw_only=True)
class Row:
    """One option as typer declares it.

    Args:
        takes: the type of what is typed.
        look: keywords of `typer.Option`, or of `typer.Argument`.
        argument: it is typed without its name.
    """

    takes: Any
    look: Mapping[str, Any] = field(default_factory=dict)
    argument: bool = False


def _text(metavar: str, help: str, panel: str | None = None, **more: Any) -> Row:
    look = {"metavar": metavar, "help": help, "rich_help_panel": panel, **more}
    return Row(takes=str | None, look=look)


def _parsed(
    parser: Callable[[str], Any], metavar: str, help: str, panel: str | None = None, **more: Any
) -> Row:
    look = {"parser": parser, "metavar": metavar, "help": help, "rich_help_panel": panel, **more}
    return Row(takes=Any, look=look)


def _count(help: str, panel: str | None = None, **more: Any) -> Row:
    look = {"metavar": "N", "help": help, "rich_help_panel": panel, **more}
    return Row(takes=int | None, look=look)


def _number(metavar: str, help: str, panel: str | None = None) -> Row:
    look = {"metavar": metavar, "help": help, "rich_help_panel": panel}
    return Row(takes=float | None, look=look)


def _several(metavar: str, help: str, panel: str | None = None, **more: Any) -> Row:
    look = {"metavar": metavar, "help": help, "rich_help_panel": panel, **more}
    return Row(takes=list[Any], look=look)


def _flag(help: str, panel: str | None = None, **more: Any) -> Row:
    look = {"metavar": "", "help": help, "rich_help_panel": panel, **more}
    return Row(takes=bool, look=look)


def _folder(help: str) -> Row:
    return Row(takes=Path, look={"metavar": "DIR", "help": help})


def _recipe(help: str, panel: str | None = None) -> Row:
    look = {"exists": True, "dir_okay": False, "metavar": "FILE", "help": help}
    return Row(takes=Path | None, look=look | {"rich_help_panel": panel})


def _argument(takes: Any, metavar: str, help: str, **more: Any) -> Row:
    return Row(takes=takes, look={"metavar": metavar, "help": help, **more}, argument=True)


def _names(kind: str) -> str:
    return ", ".join(REFERENCE[kind])


_RECOVERY = _count(
    f"Optimizer steps of recovery (default {REFERENCE['prune_steps']}; quantize: 0).",
    _TRAINING,
    min=0,
)

OPTIONS: Mapping[str, Row] = {
    # What goes in.
    "teacher": _text("REF", "REF of the teacher."),
    "student": _text("REF", "REF of the student."),
    "shrink.student": _text("REF", "REF of a student that is tried as well."),
    "student_classes": _text(
        "N|FILE",
        "The student's own, how many or a file of names, where they are not the teacher's.",
    ),
    "net": _text("REF", "REF of the network to train."),
    "model": _text("REF", "REF of the network, or a run's folder."),
    "inspect.model": _argument(str, "REF", "A network, or a run's folder."),
    "data": _text(
        "DATA",
        "Labelled images: a folder a class, SET, .npz, builtin/digits; or text: DIR:de-en.",
    ),
    "train_generator.data": _text(
        "DATA", "Images to learn from: a folder, SET, .npz or builtin/digits."
    ),
    "evaluate.data": _text("DATA", "Labelled images, or parallel text."),
    "eval": _text("DATA", "Labelled data to score on; never changes the student."),
    "run": _argument(Path, "RUN", "A run's folder."),
    # What is made.
    "out": _folder("Folder to write; must not exist."),
    "demo.out": _folder("Folder to write."),
    "format": _parsed(
        parsing.formats, "NAME,...", f"Of {_names('formats')} (default: all of them)."
    ),
    "count": _count("Images to write.", min=1),
    "score.count": _count("Images to look at.", min=64),
    "target": _parsed(
        parsing.target, "SIZE", "At most: 0.3 (of the teacher's bytes), 2MB, or 5ms an image."
    ),
    # What is done.
    "method": _parsed(
        one_known("method", "methods"),
        "NAME",
        f"Published recipe: {_names('methods')} (default: auto; of text, sequence-kd).",
    ),
    "train_generator.method": _argument(
        Any,
        "METHOD",
        f"Of {_names('generators')}.",
        parser=one_known("generator", "generators"),
    ),
    "source": _argument(
        Any,
        "SOURCE",
        f"{_names('sources')}; or a folder of images, a SET, a .npz.",
        parser=parsing.source,
    ),
    "transfer": _parsed(
        parsing.source,
        "SOURCE",
        f"What to show: {_names('sources')}; or images or text on disk.",
    ),
    "few": _text("DATA", "10 to 500 real images, with labels or without: half teach, half judge."),
    "score.transfer": _several("SOURCE", "A source; several are compared.", parser=parsing.source),
    "objective": _several(
        "NAME[=WEIGHT]",
        f"Of {_names('objectives')}; several are summed.",
        parser=parsing.objective,
    ),
    "without": _several(
        "PART",
        f"Leave a part of the recipe out: {_names('parts')}.",
        parser=one_known("part of the recipe", "parts"),
    ),
    "augment": _parsed(
        one_known("augmentation", "augmentations"),
        "NAME",
        f"In place of the recipe's own augmentation: {_names('augmentations')}.",
    ),
    "batch_norm": _parsed(
        one_known("batch norm", "batch_norms"),
        "NAME",
        f"How BatchNorm begins and learns, from scratch: {_names('batch_norms')}.",
    ),
    "labels": _flag("Use the transfer set's labels, too."),
    "balance": _flag("As many images of each class the teacher names."),
    "skip_bad": _flag("Leave unreadable images out, and count them."),
    # How a network is changed.
    "ratio": _number("SHARE", "Of all filters, in (0, 1).", _CHANGE),
    "importance": _parsed(
        one_known("importance", "importances"), "NAME", f"Of {_names('importances')}.", _CHANGE
    ),
    "loss": _parsed(
        one_known("loss", "pruning_losses"),
        "NAME",
        f"That taylor squares: {_names('pruning_losses')}.",
        _CHANGE,
    ),
    "rounds": _count("Prune a part, recover, N times.", _CHANGE, min=1),
    "repair": _flag(
        "Solve what is left of each layer by least squares (default: yes).",
        _CHANGE,
        show_default=False,
    ),
    "images": _parsed(
        parsing.source,
        "SOURCE",
        "By which importance is judged (default: the transfer set).",
        _CHANGE,
    ),
    "calibration": _parsed(parsing.source, "SOURCE", "Images that int8 is calibrated on."),
    "quantize.calibration": _parsed(
        parsing.source,
        "SOURCE",
        "For the ranges of activations (default: the transfer set).",
        _CHANGE,
    ),
    "weight_bits": _count("Of weights: 2 to 8; 32 leaves them.", _CHANGE, metavar="BITS"),
    "activation_bits": _count("Of layers' inputs, likewise.", _CHANGE, metavar="BITS"),
    "first_last_bits": _parsed(
        parsing.bits_or_same, "BITS|same", "Of the first and last layer at least.", _CHANGE
    ),
    "calibration_method": _parsed(
        one_known("calibration_method", "calibration_methods"),
        "NAME",
        f"How ranges are taken: {_names('calibration_methods')}.",
        _CHANGE,
    ),
    "correct_bias": _flag("Move channels by the error of their means.", _CHANGE),
    "strategy": _parsed(
        one_known("strategy", "strategies"),
        "NAME",
        f"What holds the old classes: {_names('strategies')}.",
        _CHANGE,
    ),
    "train_batchnorm": _flag("Let BatchNorm take the transfer set's statistics.", _CHANGE),
    # The network.
    "weights": _text("FILE", "Its weights: .safetensors .pt .pth .th .pt2", _NETWORK),
    "mean": _parsed(parsing.numbers, "R,G,B", "Per channel, of [0, 1] images.", _NETWORK),
    "std": _parsed(parsing.numbers, "R,G,B", "Per channel, of [0, 1] images.", _NETWORK),
    "size": _parsed(parsing.size, "S|HxW", "Input pixels.", _NETWORK),
    "channels": _count("1 or 3.", _NETWORK, min=1, max=3),
    "synthesize.channels": _count("Of the images (default: the teacher's, or 3).", min=1),
    "classes": _text("N|FILE", "How many, or a file of names.", _NETWORK),
    "allow_code": _several("FILE", "A file whose code a recipe or a run may run.", _NETWORK),
    # The training.
    "steps": _count(f"Optimizer steps (default {REFERENCE['steps']}).", _TRAINING, min=1),
    "train_generator.steps": _count(
        f"Optimizer steps of each stage (default {REFERENCE['steps']}).", _TRAINING, min=1
    ),
    "prune.steps": _RECOVERY,
    "quantize.steps": _RECOVERY,
    "continual.steps": _RECOVERY,
    "budget": _parsed(parsing.seconds, "TIME", "In place of steps: 90s, 20m, 1.5h.", _TRAINING),
    "shrink.budget": _parsed(parsing.whole_budget, "TIME", "For all of it: 90s, 20m, 1.5h."),
    "batch_size": _count(f"Images a step (default {REFERENCE['batch_size']}).", _TRAINING, min=1),
    "train_generator.batch_size": _count(
        "Images a step (default: as published).", _TRAINING, min=2
    ),
    "evaluate.batch_size": _count("Images at a time.", _TRAINING, min=1),
    "shrink.batch_size": _count(
        "Images a step (default 128, or 32 for slow networks).", _TRAINING, min=1
    ),
    "lr": _number("RATE", "Peak learning rate.", _TRAINING),
    "seed": _parsed(parsing.seed, "N", "Random seed (default 0).", _TRAINING, show_default=False),
    "device": _text("NAME", "cpu, cuda, or auto (default).", _TRAINING, show_default=False),
    "precision": _parsed(
        one_known("precision", "precisions"),
        "NAME",
        f"{_names('precisions')} (default: the faster one here).",
        _TRAINING,
    ),
    # The run.
    "set": _several("KEY=VALUE", "Any field of the recipe.", _RUN, parser=parsing.assignment),
    "recipe": _recipe("Run a recipe.toml again.", _RUN),
    "score.recipe": _recipe(
        "A recipe.toml that says how they are fed; what it shows is scored, too."
    ),
    "init_from": _text("WEIGHTS", "Weights to start from.", _RUN),
    "from_scratch": _flag("Random weights, where the student could begin at its teacher.", _RUN),
    "resume": _flag("Go on with what is in --out.", _RUN),
    "overwrite": _flag("Replace what is in --out.", _RUN),
    "tensorboard": _flag("Write curves for TensorBoard, too.", _RUN),
    # Of the command alone.
    "json": _flag("Print one JSON object and nothing else."),
}
