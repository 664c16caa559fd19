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
from doublure.nets.state_names import (
    OPTIONAL,
    NameMatch,
    is_bookkeeping,
    match_names,
    shapes_of,
)

Shapes = dict[str, tuple[int, ...]]
_SHOWN = 4
# Variances of images that were not normalised stay below 10^8; a flipped exponent bit does not.
_LARGEST = 1e10


def load_state_(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    reference: str,
    weights: str,
    classes: int,
    channels: int,
    size: tuple[int, int],
) -> tuple[str, ...]:
    """Copy `state` into the network, and return what a person should be told.

    The file must hold every weight; what belongs to no part of the network is left out.

    Args:
        reference: the network's REF, for messages.
        weights: origin of the weights, for messages.

    Raises:
        ValueError: names or shapes differ, or the numbers cannot be weights.
    """
    expected: dict[str, Tensor] = dict(network.state_dict())
    match = match_names(shapes_of(state), shapes_of(expected))
    given = {name: _counted(name, state[there]) for name, there in match.names.items()}
    missing = sorted(name for name in expected.keys() - given.keys() if not name.endswith(OPTIONAL))
    unexpected = sorted(_unexpected(match))
    if missing or unexpected:
        raise ValueError(
            f"{weights} does not fit {reference}: "
            f"{_listed('missing', missing)}{_listed('unexpected', unexpected)}"
            f"{looks_like(state, size)}"
        )
    if match.rivals:
        prefixes = [prefix.rstrip(".") or "no prefix" for prefix in (match.prefix, *match.rivals)]
        raise ValueError(
            f"{weights} holds several networks that fit {reference} ({', '.join(prefixes)}); "
            f"say which: --weights-key {prefixes[0]}"
        )
    differing = {
        name: (tuple(given[name].shape), tuple(expected[name].shape))
        for name in expected
        if name in given and given[name].shape != expected[name].shape
    }
    if differing:
        reason = _reason(differing, classes, channels) or looks_like(state, size)
        name, (there, here) = next(iter(differing.items()))
        more = f" and {len(differing) - 1} more do not fit" if len(differing) > 1 else ""
        raise ValueError(
            f"{weights} does not fit {reference}: '{name}' has shape {there}, expected "
            f"{here}{more}; {reason}"
        )
    for name in given:
        if given[name].dtype.is_floating_point != expected[name].dtype.is_floating_point:
            raise ValueError(
                f"{weights} does not fit {reference}: '{name}' is {given[name].dtype}, expected "
                f"{expected[name].dtype}; save the float weights, before any quantization"
            )
    _check_variances(given, weights)
    network.load_state_dict({**expected, **given})
    return (*_left_notes(match, weights, reference), *_size_notes(given, weights))


def fitting_names(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return `state` under the names of the network, and what fits none under its own."""
    match = match_names(shapes_of(state), shapes_of(network.state_dict()))
    named = {name: state[there] for name, there in match.names.items()}
    return {**named, **{name: state[name] for name in _unexpected(match)}}


def _unexpected(match: NameMatch) -> list[str]:
    """Return what is left over of the same network; what tools note beside it does not count."""
    foreign = set(match.foreign)
    return [name for name in match.left if name not in foreign]


def _counted(name: str, tensor: Tensor) -> Tensor:
    """Return a count of batches as torch keeps it, whatever another tool made of it."""
    if name.endswith(OPTIONAL) and tensor.numel() == 1:
        return tensor.reshape(()).long()
    return tensor


def _check_variances(given: Mapping[str, Tensor], weights: str) -> None:
    for name, tensor in given.items():
        layer, _, kind = name.rpartition(".")
        if kind == "running_var" and bool((tensor < 0).any()):
            count = int((tensor < 0).sum())
            raise ValueError(
                f"{weights}: layer '{layer}' has a negative variance (running_var) in {count} of "
                f"{tensor.numel()} channels; the file is damaged or was converted wrongly: take "
                "an earlier checkpoint"
            )


def _left_notes(match: NameMatch, weights: str, reference: str) -> tuple[str, ...]:
    notes = []
    if match.average:
        key = match.average.rstrip(".")
        notes.append(
            f"{weights} also holds a moving average of the weights; --weights-key {key} takes it"
        )
    left = [
        name
        for name in match.foreign
        if not (match.average and name.startswith(match.average)) and not is_bookkeeping(name)
    ]
    if left:
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        notes.append(
            f"{weights} holds more than {reference} has; left out: {', '.join(left[:_SHOWN])}{more}"
        )
    return tuple(notes)


def _size_notes(given: Mapping[str, Tensor], weights: str) -> tuple[str, ...]:
    """Return a warning where numbers are too large for anything that was trained."""
    for name, tensor in given.items():
        if tensor.is_floating_point() and tensor.numel():
            largest = float(tensor.abs().max())
            if largest > _LARGEST:
                return (
                    f"{weights}: '{name}' has values up to {largest:.1e}, which no training "
                    "yields; the file may be damaged",
                )
    return ()


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
    match = match_names(shapes_of(state), smaller)
    given = {name: state[there] for name, there in match.names.items()}
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

        match = match_names(shapes_of(state), _shapes(make, 2, 3))
        if _unexpected(match) or not _complete(match, _shapes(make, 2, 3)):
            continue
        classes, channels = (
            count_from_weights(state, "classes", make),
            count_from_weights(state, "channels", make),
        )
        if classes is None or channels is None:
            continue
        shapes = _shapes(make, classes, channels)
        match = match_names(shapes_of(state), shapes)
        if all(
            tuple(_counted(name, state[there]).shape) == shapes[name]
            for name, there in match.names.items()
        ):
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


def _complete(match: NameMatch, shapes: Shapes) -> bool:
    return all(name in match.names or name.endswith(OPTIONAL) for name in shapes)


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
