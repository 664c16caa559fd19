"""A network from a function in the user's own Python file.

This runs the file; the caller must have permission, that is, a person named the file.
"""

import contextlib
import hashlib
import importlib.util
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.checks import one_of
from doublure.nets.network import main_output, other_precisions

# Name prefix of modules loaded from a file.
_OF_FILE = "doublure_file_"


def load_module(path: str | Path) -> ModuleType:
    """Run the file and return it as a module; its code runs once per process and content.

    Raises:
        ValueError: no such file, or its code raises.
    """
    path = Path(path).resolve()
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(f"no Python file {path}; the form is net.py:name")
    # Dataclasses and pickles look a module up by its name, so it needs one of its own.
    digest = hashlib.blake2b(str(path).encode() + path.read_bytes(), digest_size=6).hexdigest()
    name = f"{_OF_FILE}{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with _beside(path), _name_user_code(path):
            spec.loader.exec_module(module)
    except ValueError:
        del sys.modules[spec.name]
        raise
    return module


def module_of_file(module: str) -> str | None:
    """Return the file of a module from `load_module`, None for any other module."""
    return str(sys.modules[module].__file__) if module.startswith(_OF_FILE) else None


def load_factory(path: str | Path, name: str) -> Callable[..., Any]:
    """Run the file and return its function `name`.

    Raises:
        ValueError: no such file, or no callable of that name in it.
    """
    path = Path(path).resolve()
    module = load_module(path)
    made_here = {key: value for key, value in vars(module).items() if callable(value)}
    one_of(f"function in {path.name}", name, [key for key in made_here if key[0] != "_"])
    return _with_neighbours(made_here[name], path)


def make(factory: Callable[..., Any], source: str, **wanted: Any) -> nn.Module:
    """Return the factory's network, called with the values of `wanted` that it accepts.

    Weights in half or double precision are converted to float32, with a warning.

    Args:
        source: the REF, for messages.
        wanted: classes, channels, size; None if unknown.
    """
    arguments = inspect.signature(factory).parameters
    given = {key: wanted[key] for key in arguments if wanted.get(key) is not None}
    for key, argument in arguments.items():
        variable = argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
        if argument.default is argument.empty and not variable and key not in given:
            reason = f"nothing states it: use --{key}" if key in wanted else "it is unknown"
            raise ValueError(f"{source} needs the argument '{key}', and {reason}")
    network = factory(**given)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{source} returned a {type(network).__name__}, not a torch nn.Module")
    if others := other_precisions(network):
        warnings.warn(f"{source} has {others} weights: converted to float32", stacklevel=2)
        network.float()
    return network


def first_channels(network: nn.Module) -> int | None:
    """Return the number of input channels of the first convolution, None without convolutions."""
    return next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)), None)


def count_classes(
    network: nn.Module, source: str, classes: int | None, channels: int, size: tuple[int, int]
) -> int:
    """Return the number of the network's outputs for one black image; its state is unchanged.

    Args:
        source: the REF, for messages.
        classes: expected number, None if unknown.
    """
    answer = answered(network, source, channels, size)
    if not isinstance(answer, Tensor) or answer.ndim < 2:
        kind = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(f"{source} returns {kind}, not logits of shape (batch, classes)")
    if classes not in (None, answer.shape[1]):
        raise ValueError(
            f"{source} returns {answer.shape[1]} classes, not {classes}; give its function an "
            f"argument 'classes'"
        )
    return answer.shape[1]


def answered(network: nn.Module, source: str, channels: int, size: tuple[int, int]) -> Any:
    """Return what the network answers to one black image; it is left as it was."""
    training = {layer: layer.training for layer in network.modules()}
    try:
        with torch.no_grad():
            answer = network.eval()(torch.zeros(1, channels, *size))
            return main_output(answer)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{source} does not take one float32 image of {channels} x {size[0]} x {size[1]} "
            f"({reason}); use --size"
        ) from error
    finally:
        for layer, mode in training.items():
            layer.training = mode


def _with_neighbours(factory: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """Let the factory import files of its own folder, as in a script."""

    def call(**arguments: Any) -> Any:
        with _beside(path), _name_user_code(path):
            return factory(**arguments)

    call.__signature__ = inspect.signature(factory)  # type: ignore[attr-defined]  # as wraps() does
    return call


@contextlib.contextmanager
def _name_user_code(path: Path) -> Iterator[None]:
    """Turn an exception of the user's code into a message with its line."""
    try:
        yield
    except Exception as error:  # the user's code may raise any exception
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if isinstance(error, SyntaxError):
            lines = [error.lineno]
        where = f"line {lines[-1]} of {path}" if lines and lines[-1] else str(path)
        raise ValueError(f"{where} raised {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[None]:
    sys.path.insert(0, str(path.parent))
    try:
        yield
    finally:
        sys.path.remove(str(path.parent))
