"""The command line's reference of verbs, options and names, generated from the code.

`python -m doublure.verbs.reference` writes it to `cli/reference.json`, so that --help needs no
torch; a test keeps the file true.
"""

import inspect
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import doublure
from doublure import catalogue
from doublure.audits.baselines import BASELINES
from doublure.audits.explainers import EXPLAINERS
from doublure.audits.saliency import Output
from doublure.compress.activation_ranges import CalibrationMethod
from doublure.compress.choosing_bits import Search
from doublure.compress.post_training_quantization import Ranges, Rounding
from doublure.compress.pruning import Importance
from doublure.compress.pruning_loss import PruningLoss
from doublure.engine.fit import FitSettings
from doublure.engine.task import OwnVerbs
from doublure.exports.exporting import FILES
from doublure.nets.precision import Precision
from doublure.recipes import BATCH_NORMS, METHODS, PARTS
from doublure.rules.pooled_filters import Filters
from doublure.sources.augmenting import AUGMENTERS
from doublure.tasks import TASKS
from doublure.verbs.continual import Strategy
from doublure.verbs.prune import STEPS
from doublure.verbs.train_generator import GENERATORS

_KINDS: tuple[tuple[str, Any], ...] = (
    ("flag", bool),
    ("text", str),
    ("count", int),
    ("number", float),
    ("path", Path),
    ("texts", Sequence),
    ("assignments", Mapping),
)
# One argument in a docstring: its name, and all lines up to the next one.
_ARGUMENT = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def reference(tasks: Sequence[Any] = TASKS) -> dict[str, Any]:
    """Return the names in help texts, and the parameters of every verb.

    Args:
        tasks: tasks whose own verbs are included.
    """
    fit = FitSettings()
    own = [task for task in tasks if isinstance(task, OwnVerbs)]
    return {
        "methods": list(METHODS),
        "generators": list(GENERATORS),
        "sources": list(catalogue.by_name(catalogue.SOURCES)),
        "objectives": list(catalogue.by_name(catalogue.OBJECTIVES)),
        "parts": list(PARTS),
        "augmentations": list(AUGMENTERS),
        "batch_norms": list(BATCH_NORMS),
        "filters": list(get_args(Filters)),
        "formats": list(FILES),
        "precisions": list(get_args(Precision)),
        "importances": list(get_args(Importance)),
        "pruning_losses": list(get_args(PruningLoss)),
        "calibration_methods": list(get_args(CalibrationMethod)),
        "saliency_methods": list(EXPLAINERS),
        "saliency_outputs": list(get_args(Output)),
        "baselines": list(BASELINES),
        "ranges": list(get_args(Ranges)),
        "roundings": list(get_args(Rounding)),
        "searches": list(get_args(Search)),
        "strategies": list(get_args(Strategy)),
        "prune_steps": STEPS,
        "steps": fit.steps,
        "batch_size": fit.batch_size,
        "verbs": {verb: _parameters(getattr(doublure, verb)) for verb in doublure.VERBS},
        "tasks": {
            task.name: {
                "help": _first_line(type(task)),
                "verbs": {verb: _own_verb(call) for verb, call in task.own_verbs.items()},
            }
            for task in own
        },
    }


def _own_verb(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the data of a task's own verb for the command, which does not import it."""
    hints = get_type_hints(call)
    documented = dict(_ARGUMENT.findall(inspect.getdoc(call) or ""))
    told = _parameters(call)
    names = [*told["required"], *told["optional"]]
    options = {
        name: {"takes": _takes(name, hints[name]), "help": _sentence(documented.get(name, ""))}
        for name in names
        if name in hints and get_origin(hints[name]) is not Callable
    }
    return {
        "call": f"{call.__module__}:{call.__qualname__}",
        "help": _first_line(call),
        **told,
        "options": options,
    }


def _takes(name: str, hint: Any) -> str:
    """Return the key in `cli.task_verbs.TYPES` of a parameter's type."""
    if isinstance(hint, types.UnionType) or get_origin(hint) is Union:
        options = [part for part in get_args(hint) if part is not type(None)]
        hint = Path if Path in options else options[0]
    for kind, of in _KINDS:
        if hint is of or get_origin(hint) is of:
            return kind
    raise TypeError(f"a verb's parameter {name} is a {hint}; see engine.task.OwnVerbs")


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _sentence(text: str) -> str:
    """Return the text of an argument on one line, in the form of a help text."""
    words = " ".join(text.split())
    return words[:1].upper() + words[1:]


def _parameters(verb: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameters that a verb requires, and the others with their defaults.

    The default is None, left to the function, for shared options and values that are not plain.
    """
    required: list[str] = []
    optional: dict[str, Any] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            (shared,) = get_args(parameter.annotation)  # of Unpack
            optional |= dict.fromkeys(shared.__annotations__)
        elif parameter.default is parameter.empty:
            required.append(name)
        else:
            plain = isinstance(parameter.default, bool | int | float | str)
            optional[name] = parameter.default if plain else None
    return {"required": required, "optional": optional}


def path() -> Path:
    """Return the path of the file."""
    return Path(str(resources.files("doublure.cli").joinpath("reference.json")))


if __name__ == "__main__":
    path().write_text(json.dumps(reference(), indent=2) + "\n", encoding="utf-8")
