"""Activations that produce or consume a value, found by recording function calls.

A network may apply its activation as a layer, as a function, or in place, so that module names do
not locate it. Therefore its function calls are recorded, with their input and output values. A
value leaves the activation that returns it; it enters the first activation that receives it,
directly or after channel-wise steps (BatchNorm, a scale, a shift). Convolutions, sums of two maps
and changes of shape end the search.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Names shared by torch, torch.nn.functional and tensor methods. Sigmoids are excluded: they are
# gates.
_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "celu": F.celu,
    "elu": F.elu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "prelu": F.prelu,
    "relu": F.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "silu": F.silu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}

# A tensor's identity and its version: an in-place function returns its input tensor with new
# values.
Values = tuple[int, int]


def values_of(tensor: Any) -> Values | None:
    """Return a key for the current values of a tensor; None for anything else."""
    if not isinstance(tensor, Tensor):
        return None
    return id(tensor), 0 if tensor.is_inference() else tensor._version


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of an activation or of a channel-wise function.

    Args:
        entering: keys of the input values.
        leaving: keys of the output values.
        activates: whether it is an activation.
        function: the activation, with its settings; None if it has weights.
    """

    entering: Values
    leaving: Values
    activates: bool = False
    function: Callable[[Tensor], Tensor] | None = None


class ActivationRecorder(TorchFunctionMode):
    """Context manager that records the steps of the networks called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        # Keep the tensors alive: a freed one would pass its identity to another.
        self._alive: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = args[0] if args else kwargs.get("input")
        entering = values_of(given)
        answer = func(*args, **kwargs)
        leaving = values_of(answer)
        if isinstance(given, Tensor) and entering and leaving and given.shape == answer.shape:
            self._alive += [given, answer]
            kwargs.pop("input", None)
            if entering != leaving:
                self._record(func, entering, leaving, given, args[1:], kwargs)
        return answer

    def _record(
        self,
        func: Callable[..., Any],
        entering: Values,
        leaving: Values,
        given: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        weights = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        known = _ACTIVATIONS.get(getattr(func, "__name__", "").strip("_"))
        if known is not None:
            function = None if weights else _with_settings(known, args, kwargs)
            step = Step(entering=entering, leaving=leaving, activates=True, function=function)
            self.steps.append(step)
        elif all(one.numel() <= _channels(given) for one in weights):
            self.steps.append(Step(entering=entering, leaving=leaving))


def find_activation(steps: Iterable[Step], values: Values) -> Step | None:
    """Return the activation that produced the values, else their first consumer, else None."""
    steps = tuple(steps)
    for step in steps:
        if step.activates and step.leaving == values:
            return step
    reached = {values}
    for step in steps:
        if step.entering in reached:
            if step.activates:
                return step
            reached.add(step.leaving)
    return None


def _with_settings(
    known: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    """Return an activation module with the settings of a call, but not in place."""
    # Of the arguments after the input, only `inplace` is a bool.
    numbers = tuple(one for one in args if not isinstance(one, bool))
    named = {name: value for name, value in kwargs.items() if name != "inplace"}
    return partial(_activate, known, numbers, named) if numbers or named else known


def _activate(
    known: Callable[..., Tensor], numbers: tuple[Any, ...], named: dict[str, Any], x: Tensor
) -> Tensor:
    return known(x, *numbers, **named)


def _channels(given: Tensor) -> int:
    """Return the number of channels of a map, tokens (batch, tokens, channels) or a vector."""
    return given.shape[1] if given.dim() == 4 else given.shape[-1] if given.dim() > 1 else 0
