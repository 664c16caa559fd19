"""The options of the command line: types, help texts and groups.

A verb's function in `verbs` determines its options, their order and defaults (in reference.json);
`cli.commands` joins the two. A row serves every verb with a parameter of that name; "VERB.NAME" is
the row of one verb alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doublure.cli import parsing
from doublure.cli.parsing import REFERENCE, one_known

# Parameters that the command line does not offer, since it shows progress itself.
OF_PYTHON = frozenset({"say", "watch", "checkpoint_seconds", "audit", "began"})

# Groups of options, in the order of the help.
PANELS = ("The change", "The network", "The training", "The run")
_CHANGE, _NETWORK, _TRAINING, _RUN = PANELS


@dataclass(frozen=True, kw_only=True)
class Row:
    """The declaration of an option for typer.

    Args:
        takes: type of the value.
        look: keyword arguments of `typer.Option`, or of `typer.Argument`.
        argument: whether it is an argument without a name.
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
    # Inputs.
    "teacher": _text("REF", "REF of the teacher."),
    "student": _text("REF", "REF of the student."),
    "shrink.student": _text("REF", "REF of an additional student."),
    "student_classes": _text(
        "N|FILE",
        "Student's classes if not the teacher's: number or file of names.",
    ),
    "net": _text("REF", "REF of the network to train."),
    "model": _text("REF", "REF of the network, or a run's folder."),
    "inspect.model": _argument(str, "REF", "A network, or a run's folder."),
    "data": _text(
        "DATA",
        "Labelled images: class folders, SET, .npz, builtin/digits; or text: DIR:de-en.",
    ),
    "train_generator.data": _text(
        "DATA", "Training images: a folder, SET, .npz or builtin/digits."
    ),
    "evaluate.data": _text("DATA", "Labelled images, or parallel text."),
    "eval": _text("DATA", "Labelled evaluation data; never affects the student."),
    "run": _argument(Path, "RUN", "A run's folder."),
    # Outputs.
    "out": _folder("Folder to write; must not exist."),
    "demo.out": _folder("Folder to write."),
    "format": _parsed(parsing.formats, "NAME,...", f"Formats: {_names('formats')} (default: all)."),
    "count": _count("Number of images.", min=1),
    "score.count": _count("Number of images to score.", min=64),
    "target": _parsed(
        parsing.target, "SIZE", "Limit: 0.3 (of the teacher's bytes), 2MB, or 5ms per image."
    ),
    # Method.
    "method": _parsed(
        one_known("method", "methods"),
        "NAME",
        f"Published recipe: {_names('methods')} (default: auto; for text, sequence-kd).",
    ),
    "train_generator.method": _argument(
        Any,
        "METHOD",
        f"Method: {_names('generators')}.",
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
        f"Transfer set: {_names('sources')}; or images or text on disk.",
    ),
    "few": _text("DATA", "10 to 500 real images, labels optional: half train, half evaluate."),
    "score.transfer": _several("SOURCE", "Transfer sets to compare.", parser=parsing.source),
    "objective": _several(
        "NAME[=WEIGHT]",
        f"Objective: {_names('objectives')}; several are summed.",
        parser=parsing.objective,
    ),
    "without": _several(
        "PART",
        f"Omit a part of the recipe: {_names('parts')}.",
        parser=one_known("part of the recipe", "parts"),
    ),
    "augment": _parsed(
        one_known("augmentation", "augmentations"),
        "NAME",
        f"Augmentation instead of the recipe's: {_names('augmentations')}.",
    ),
    "batch_norm": _parsed(
        one_known("batch norm", "batch_norms"),
        "NAME",
        f"BatchNorm from scratch: {_names('batch_norms')}.",
    ),
    "interleave": _number("SHARE", "Share of steps with images of half the size, in [0, 1)."),
    "interleave_filters": _parsed(
        one_known("filters", "filters"), "NAME", f"Filters in those steps: {_names('filters')}."
    ),
    "labels": _flag("Also use the transfer set's labels."),
    "balance": _flag("Equally many images of each class (by the teacher)."),
    "skip_bad": _flag("Skip and count unreadable images."),
    # Compression.
    "ratio": _number("SHARE", "Share of filters to remove, in (0, 1).", _CHANGE),
    "importance": _parsed(
        one_known("importance", "importances"),
        "NAME",
        f"Of {_names('importances')}.",
        _CHANGE,
    ),
    "loss": _parsed(
        one_known("loss", "pruning_losses"),
        "NAME",
        f"Loss of taylor: {_names('pruning_losses')}.",
        _CHANGE,
    ),
    "rounds": _count("Rounds of pruning and recovery.", _CHANGE, min=1),
    "repair": _flag(
        "Refit remaining weights by least squares (default: yes).",
        _CHANGE,
        show_default=False,
    ),
    "images": _parsed(
        parsing.source,
        "SOURCE",
        "Images for the importance (default: the transfer set).",
        _CHANGE,
    ),
    "audit_saliency.images": _count("To explain, 8 or more.", min=8),
    "against": _text("REF", "REF of another network: are its maps the same?"),
    "methods": _parsed(
        parsing.several_known("method", "saliency_methods"),
        "NAME,...",
        f"Of {_names('saliency_methods')} (default: rise,occlusion,integrated-gradients).",
        show_default=False,
    ),
    "baselines": _parsed(
        parsing.several_known("baseline", "baselines"),
        "NAME,...",
        f"Of {_names('baselines')} (default: mean,black,grey,own-mean,blur,noise).",
        show_default=False,
    ),
    "masks": _count("Random masks of rise.", min=1),
    "num_seeds": _count("Of each random method, for the floor.", min=2),
    "output": _parsed(
        one_known("output", "saliency_outputs"),
        "NAME",
        f"What is explained: {_names('saliency_outputs')}.",
    ),
    "audit_saliency.budget": _parsed(
        parsing.seconds, "TIME", "Fewer images where all take longer: 90s, 20m."
    ),
    "calibration": _parsed(parsing.source, "SOURCE", "Calibration images of int8."),
    "quantize.calibration": _parsed(
        parsing.source,
        "SOURCE",
        "Images for activation ranges (default: the transfer set).",
        _CHANGE,
    ),
    "audit_quantization.bits": _parsed(
        parsing.several_bits, "N,...", "Bit widths of layer inputs (default 4,5,6,8)."
    ),
    "audit_quantization.transfer": _parsed(
        parsing.source, "SOURCE", "Images for the audit (default: shaders)."
    ),
    "audit_quantization.eval": _text("DATA", "Labelled images, in place of --transfer."),
    "audit_quantization.count": _count("Number of images.", min=4),
    "mean_bits": _number("BITS", "Mean bit width of each policy over the layers."),
    "policies": _count("Number of random policies.", min=1),
    "bits": _parsed(
        parsing.bits_or_auto, "BITS|auto", "Bit width of weights and inputs (2 to 8).", _CHANGE
    ),
    "quantize.target": _text(
        "SIZE", "For --bits auto: 4.5bits, 0.3size (of float32) or 2ms.", _CHANGE
    ),
    "search": _parsed(
        one_known("search", "searches"),
        "NAME",
        f"Search of --bits auto: {_names('searches')} (default: milp).",
        _CHANGE,
    ),
    "weight_bits": _count("Weight bit width (2 to 8; 32 = off).", _CHANGE, metavar="BITS"),
    "activation_bits": _count("Activation bit width (2 to 8; 32 = off).", _CHANGE, metavar="BITS"),
    "layer_bits": _several("NAME=W[/A]", "Bit width of one layer: weights/inputs.", _CHANGE),
    "ranges": _parsed(
        one_known("ranges", "ranges"),
        "NAME",
        "Activation ranges: static (calibrated) or dynamic (per image).",
        _CHANGE,
    ),
    "symmetric": _flag("Use symmetric activation ranges.", _CHANGE),
    "rounding": _parsed(
        one_known("rounding", "roundings"),
        "NAME",
        "Weight rounding: nearest, or adaptive (to the layer's outputs).",
        _CHANGE,
    ),
    "equalise": _flag("Equalise channel ranges between successive layers first.", _CHANGE),
    "first_last_bits": _parsed(
        parsing.bits_or_same, "BITS|same", "Minimum bit width of the first and last layer.", _CHANGE
    ),
    "calibration_method": _parsed(
        one_known("calibration_method", "calibration_methods"),
        "NAME",
        f"Range calibration: {_names('calibration_methods')}.",
        _CHANGE,
    ),
    "correct_bias": _flag("Correct biases by the error of channel means.", _CHANGE),
    "strategy": _parsed(
        one_known("strategy", "strategies"),
        "NAME",
        f"Strategy for old classes: {_names('strategies')}.",
        _CHANGE,
    ),
    "train_batchnorm": _flag("Update BatchNorm statistics on the transfer set.", _CHANGE),
    # The network.
    "weights": _text("FILE", "Its weights: .safetensors .pt .pth .th .pt2", _NETWORK),
    "weights_key": _text("KEY", "Which weights, if the file has several sets.", _NETWORK),
    "mean": _parsed(parsing.numbers, "R,G,B", "Per channel, for images in [0, 1].", _NETWORK),
    "std": _parsed(parsing.numbers, "R,G,B", "Per channel, for images in [0, 1].", _NETWORK),
    "size": _parsed(parsing.size, "S|HxW", "Input pixels.", _NETWORK),
    "channels": _count("Number of channels, 1 or 3.", _NETWORK, min=1, max=3),
    "synthesize.channels": _count("Number of channels (default: the teacher's, or 3).", min=1),
    "classes": _text("N|FILE", "Number of classes, or a file of names.", _NETWORK),
    "allow_code": _several("FILE", "A file whose code may run.", _NETWORK),
    # Training.
    "steps": _count(f"Optimizer steps (default {REFERENCE['steps']}).", _TRAINING, min=1),
    "train_generator.steps": _count(
        f"Optimizer steps of each stage (default {REFERENCE['steps']}).", _TRAINING, min=1
    ),
    "prune.steps": _RECOVERY,
    "quantize.steps": _RECOVERY,
    "continual.steps": _RECOVERY,
    "budget": _parsed(
        parsing.whole_budget, "TIME", "Total time instead of steps: 90s, 20m, 1.5h.", _TRAINING
    ),
    "shrink.budget": _parsed(parsing.whole_budget, "TIME", "Total time: 90s, 20m, 1.5h."),
    "batch_size": _count(f"Images per step (default {REFERENCE['batch_size']}).", _TRAINING, min=1),
    "train_generator.batch_size": _count(
        "Images per step (default: as published).", _TRAINING, min=2
    ),
    "evaluate.batch_size": _count("Images per batch.", _TRAINING, min=1),
    "shrink.batch_size": _count(
        "Images per step (default 128, or 32 for slow networks).", _TRAINING, min=1
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
    # Run.
    "set": _several("KEY=VALUE", "Set any field of the recipe.", _RUN, parser=parsing.assignment),
    "recipe": _recipe("Re-run a recipe.toml.", _RUN),
    "score.recipe": _recipe("A recipe.toml with the augmentation; its own source is scored, too."),
    "init_from": _text("WEIGHTS", "Initial weights.", _RUN),
    "from_scratch": _flag("Random initial weights, no inheritance from the teacher.", _RUN),
    "resume": _flag("Resume the run in --out.", _RUN),
    "overwrite": _flag("Replace the content of --out.", _RUN),
    "tensorboard": _flag("Also write curves for TensorBoard.", _RUN),
    # Options of the command only.
    "json": _flag("Print only one JSON object."),
}
