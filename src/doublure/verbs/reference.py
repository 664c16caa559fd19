"""What the command line's help says about names and defaults, read off the code.

`python -m doublure.verbs.reference` writes it to `cli/reference.json`, so that --help needs no
torch; a test keeps the file true.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from doublure import catalogue
from doublure.compress.post_training_quantization import CalibrationMethod, PostTrainingQuantization
from doublure.compress.pruning import Importance, Pruning, PruningLoss
from doublure.engine.fit import FitSettings
from doublure.exports.exporting import FILES
from doublure.nets.precision import Precision
from doublure.recipes import METHODS, PARTS
from doublure.sources.augmenting import AUGMENTERS
from doublure.verbs.continual import Strategy
from doublure.verbs.naming import ON_DISK, UNNAMED
from doublure.verbs.prune import STEPS
from doublure.verbs.train_generator import GENERATORS


def reference() -> dict[str, Any]:
    """Return the names and defaults that help texts mention."""
    fit = FitSettings()
    return {
        "methods": list(METHODS),
        "generators": list(GENERATORS),
        "sources": [entry.name for entry in catalogue.SOURCES if entry.name not in ON_DISK],
        "objectives": [e.name for e in catalogue.OBJECTIVES if e.name not in UNNAMED],
        "parts": list(PARTS),
        "augmentations": list(AUGMENTERS),
        "formats": list(FILES),
        "precisions": list(get_args(Precision)),
        "importances": list(get_args(Importance)),
        "pruning_losses": list(get_args(PruningLoss)),
        "calibration_methods": list(get_args(CalibrationMethod)),
        "compress": {
            "ratio": Pruning.ratio,
            "importance": Pruning.importance,
            "loss": Pruning.loss,
            "prune_steps": STEPS,
            "weight_bits": PostTrainingQuantization.weight_bits,
            "activation_bits": PostTrainingQuantization.activation_bits,
            "first_last_bits": PostTrainingQuantization.first_last_bits,
            "calibration_method": PostTrainingQuantization.calibration_method,
            "strategies": list(get_args(Strategy)),
        },
        "steps": fit.steps,
        "batch_size": fit.batch_size,
    }


def path() -> Path:
    """Return where the command line reads it."""
    return Path(str(resources.files("doublure.cli").joinpath("reference.json")))


if __name__ == "__main__":
    path().write_text(json.dumps(reference(), indent=2) + "\n", encoding="utf-8")
