"""What the command line knows of the verbs, their options and all names, read off the code.

`python -m doublure.verbs.reference` writes it to `cli/reference.json`, so that --help needs no
torch; a test keeps the file true.
"""

import inspect
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import doublure
from doublure import catalogue
from doublure.compress.post_training_quantization import CalibrationMethod
from doublure.compress.pruning import Importance, PruningLoss
from doublure.engine.fit import FitSettings
from doublure.exports.exporting import FILES
from doublure.nets.precision import Precision
from doublure.recipes import METHODS, PARTS
from doublure.sources.augmenting import AUGMENTERS
from doublure.verbs.continual import Strategy
from doublure.verbs.prune import STEPS
from doublure.verbs.train_generator import GENERATORS


def reference() -> dict[str, Any]:
    """Return the names that help texts mention, and the parameters of every verb."""
    fit = FitSettings()
    return {
        "methods": list(METHODS),
        "generators": list(GENERATORS),
        "sources": list(catalogue.by_name(catalogue.SOURCES)),
        "objectives": list(catalogue.by_name(catalogue.OBJECTIVES)),
        "parts": list(PARTS),
        "augmentations": list(AUGMENTERS),
        "formats": list(FILES),
        "precisions": list(get_args(Precision)),
        "importances": list(get_args(Importance)),
        "pruning_losses": list(get_args(PruningLoss)),
        "calibration_methods": list(get_args(CalibrationMethod)),
        "strategies": list(get_args(Strategy)),
        "prune_steps": STEPS,
        "steps": fit.steps,
        "batch_size": fit.batch_size,
        "verbs": {verb: _parameters(getattr(doublure, verb)) for verb in doublure.VERBS},
    }


def _parameters(verb: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameters that a verb requires, and the others with their defaults.

    Of shared options, and where it is no plain value, the default is None: left to the function.
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
    """Return where the command line reads it."""
    return Path(str(resources.files("doublure.cli").joinpath("reference.json")))


if __name__ == "__main__":
    path().write_text(json.dumps(reference(), indent=2) + "\n", encoding="utf-8")
