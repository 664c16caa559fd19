"""Optional packages, imported in one place; the reason of a failed import is kept.

torchvision raises RuntimeError, not ImportError, if its wheel does not match torch's, so this is
the one place that catches every exception.
"""

import importlib
from types import ModuleType

_HOW = {
    "timm": "pip install timm torchvision huggingface-hub",
    "torchvision": "pip install timm torchvision huggingface-hub",
    "huggingface_hub": "pip install timm torchvision huggingface-hub",
    "tokenizers": "pip install tokenizers sacrebleu",
    "sacrebleu": "pip install tokenizers sacrebleu",
    "torch.utils.tensorboard": "pip install tensorboard",
    "gymnasium": "pip install gymnasium stable-baselines3 optuna",
    "stable_baselines3": "pip install gymnasium stable-baselines3 optuna",
    "optuna": "pip install gymnasium stable-baselines3 optuna",
    "moderngl": "pip install moderngl, and the system's EGL (Debian: libegl1 libgl1-mesa-dri)",
}


class MissingExtraError(RuntimeError):
    """A required package cannot be imported; the message has the reason and the command."""


def reason_absent(name: str) -> str | None:
    """Return None if `name` can be imported, else why not."""
    try:
        importlib.import_module(name)
    except Exception as error:
        # The full reason: a broken wheel differs from a missing one.
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else error!r}"
    return None


def how_to_add(name: str) -> str:
    """Return the command that adds the package `name`."""
    return _HOW.get(name, f"pip install {name}")


def require(name: str) -> ModuleType:
    """Return the module `name`, or raise with the reason and the command that adds it."""
    reason = reason_absent(name)
    if reason is not None:
        raise MissingExtraError(f"{name} cannot be imported ({reason}); {how_to_add(name)}")
    return importlib.import_module(name)
