"""Loading weights into an architecture, or one line with the reason why they do not fit.

The numbers of classes and channels of weights are found by building the architecture twice without
memory (torch's "meta" device): some tensors have a shape that depends on the number.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from doublure.nets import builtin

Shapes = dict[str, tuple[int, ...]]
_SHOWN = 4
# A batch counter for BatchNorm without momentum, missing in old checkpoints.
_OPTIONAL = "num_batches_tracked"


def load_state_(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    reference: str,
    weights: str,
    classes: int,
    channels: int,
    size: tuple[int, int],
) -> None:
    """Copy `state` into the network; it must hold every weight and nothing else.

    Args:
        reference: the network's REF, for messages.
        weights: origin of the weights, for messages.

    Raises:
        ValueError: names or shapes differ.
    """
    expected: dict[str, Tensor] = dict(network.state_dict())
    given = _under_prefix(state, expected)
    needed = {name for name in expected if not name.endswith(_OPTIONAL)}
    missing = sorted(needed - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    if missing or unexpected:
        raise ValueError(
            f"{weights} does not fit {reference}: "
            f"{_listed('missing', missing)}{_listed('unexpected', unexpected)}"
            f"{looks_like(state, size)}"
        )
    differing = {
        name: (tuple(given[name].shape), tuple(expected[name].shape))
        for name in expected
        if name in given and given[name].shape != expected[name].shape
    }
    if differing:
        reason = _reason(differing, classes, channels) or looks_like(state, size)
        name, (there, here) = next(iter(differing.items()))
        raise ValueError(
            f"{weights} does not fit {reference}: '{name}' has shape {there}, expected {here}; "
            f"{reason}"
        )
    for name in given:
        if given[name].dtype.is_floating_point != expected[name].dtype.is_floating_point:
            raise ValueError(
                f"{weights} does not fit {reference}: '{name}' is {given[name].dtype}, expected "
                f"{expected[name].dtype}; save the float weights, before any quantization"
            )
    network.load_state_dict({**expected, **given})


def count_from_weights(
    state: Mapping[str, Tensor],
    what: Literal["classes", "channels"],
    make: Callable[[int, int], nn.Module],
) -> int | None:
    """Return the number of classes or channels of the weights, None if it is not determined.

    Args:
        make: builds the architecture for numbers of classes and channels.
    """
    low, high = 2, 3
    smaller = _shapes(make, low, low)
    larger = _shapes(make, high, low) if what == "classes" else _shapes(make, low, high)
    given = _under_prefix(state, smaller)
    answers = set()
    for name, shape in smaller.items():
        for axis, (first, second) in enumerate(zip(shape, larger[name], strict=True)):
            if first == second or name not in given or given[name].ndim != len(shape):
                continue
            # A size is linear in the number: first + slope * (number - low).
            steps, rest = divmod(given[name].shape[axis] - first, second - first)
            answers.add(low + steps if rest == 0 else 0)
    answer = answers.pop() if len(answers) == 1 else 0
    return answer if answer > 0 else None


def builtin_of(state: Mapping[str, Tensor], size: tuple[int, int]) -> tuple[str, int] | None:
    """Return the built-in architecture that the weights fit exactly, and their classes."""
    for name in builtin.names():

        def make(classes: int, channels: int, name: str = name) -> nn.Module:
            return builtin.build(name, classes=classes, channels=channels, size=size)

        names = {key for key in _shapes(make, 2, 3) if not key.endswith(_OPTIONAL)}
        if not names <= state.keys():
            continue
        classes, channels = (
            count_from_weights(state, "classes", make),
            count_from_weights(state, "channels", make),
        )
        if classes is None or channels is None:
            continue
        shapes = _shapes(make, classes, channels)
        if all(shapes.get(key) == tuple(value.shape) for key, value in state.items()):
            return f"builtin/{name}", classes
    return None


class _Undrawn(TorchFunctionMode):
    """Skips initialisation: on the "meta" device, it would import torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def _shapes(make: Callable[[int, int], nn.Module], classes: int, channels: int) -> Shapes:
    with _Undrawn(), torch.device("meta"):
        state = make(classes, channels).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def _under_prefix(state: Mapping[str, Tensor], expected: Mapping[str, object]) -> dict[str, Tensor]:
    """Return `state` with the architecture's common prefix, if it has one."""
    prefix = next(iter(expected), "").partition(".")[0] + "."
    if not all(name.startswith(prefix) for name in expected):
        return dict(state)
    if any(name.startswith(prefix) for name in state):
        return dict(state)
    return {prefix + name: value for name, value in state.items()}


def _listed(word: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{word} {', '.join(names[:_SHOWN])}{more}; "


def looks_like(state: Mapping[str, Tensor], size: tuple[int, int]) -> str:
    """Return a text that names the built-in network for the weights."""
    fitting = builtin_of(state, size)
    if fitting is None:
        return "no built-in network fits either; name the architecture of these weights"
    return f"they fit {fitting[0]} with {fitting[1]} classes"


def _reason(
    differing: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    classes: int,
    channels: int,
) -> str | None:
    """Return the remedy if only the number of classes or of channels differs."""
    pairs = list(differing.values())
    for word, count, axis in (("classes", classes, 0), ("channels", channels, 1)):
        there = {shape[axis] for shape, _ in pairs if len(shape) > axis}
        alike = all(
            len(given) == len(wanted) > axis
            and wanted[axis] == count
            and given[:axis] + given[axis + 1 :] == wanted[:axis] + wanted[axis + 1 :]
            for given, wanted in pairs
        )
        if alike and len(there) == 1:
            number = there.pop()
            out = f"use --classes {number}" if word == "classes" else "use images with as many"
            return f"it has {number} {word}, not {count}: {out}"
    return None
