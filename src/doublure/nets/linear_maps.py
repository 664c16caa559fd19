"""The linear maps of a network: convolutions and linear layers, with the BatchNorm after them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LinearMap:
    """A layer, and the BatchNorm that receives its output, or None.

    Args:
        places: height and width of the output map, or number of tokens; () for a vector.
    """

    layer: str
    norm: str | None = None
    places: tuple[int, ...] = ()

    @property
    def last(self) -> str:
        """The module whose output is the map's."""
        return self.norm or self.layer


def linear_maps(network: nn.Module, inputs: Any) -> tuple[LinearMap, ...]:
    """Return the linear maps of a network that are called once, in the order of their calls."""
    found: dict[str, LinearMap] = {}
    answers: dict[int, tuple[str, Tensor]] = {}
    again: set[str] = set()

    def note(name: str, module: nn.Module, given: Any, answer: Any) -> None:
        if _is_linear(module, answer):
            again.update({name} & found.keys())
            places = answer.shape[2:] if answer.dim() == 4 else answer.shape[1:-1]
            found[name] = LinearMap(layer=name, places=tuple(places))
            answers[id(answer)] = (name, answer)  # kept alive, so that no other object gets its id
        elif _is_adjustable(module) and id(given[0]) in answers:
            before = answers[id(given[0])][0]
            found[before] = replace(found[before], norm=name)

    with _watched(network, note), torch.no_grad():
        network(inputs)
    return tuple(linear for layer, linear in found.items() if layer not in again)


def _is_linear(module: nn.Module, answer: Any) -> bool:
    # A linear layer on a map has its channels last, unlike all other layers.
    if isinstance(module, nn.Linear):
        return isinstance(answer, Tensor) and answer.dim() in (2, 3)
    return isinstance(module, nn.Conv2d)


def _is_adjustable(module: nn.Module) -> bool:
    is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return is_norm and module.running_mean is not None and bool(module.affine)


def width_of(layer: nn.Module) -> int:
    """Return the number of output channels of a linear map."""
    width: Any = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
    return int(width)


def has_constant(network: nn.Module, linear: LinearMap) -> bool:
    """Return whether a linear map has a bias, or its BatchNorm has one."""
    return linear.norm is not None or network.get_submodule(linear.layer).bias is not None


@contextmanager
def _watched(network: nn.Module, note: Callable[..., None]) -> Iterator[None]:
    handles = [
        module.register_forward_hook(
            lambda module, given, answer, name=name: note(name, module, given, answer)
        )
        for name, module in network.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
