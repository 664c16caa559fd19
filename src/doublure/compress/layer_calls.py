"""What reaches and leaves the layers of a network that can be quantized."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.nets.network import Network
from doublure.nets.quantized import Quantized, can_be_quantized

_OPERANDS = ("query", "key", "value")


def watch_inputs(
    network: Network,
    names: Sequence[str] | None,
    images: Iterable[Tensor],
    note: Callable[[str, Tensor], object],
) -> None:
    """Call `note` with the inputs of the named layers, or of all that can be quantized.

    Of attention these are query, key and value, one after the other.
    """
    layers = dict(network.body.named_modules())
    if names is None:
        names = [
            name
            for name, layer in layers.items()
            if can_be_quantized(layer) or isinstance(layer, Quantized)
        ]

    def hook_of(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for x in _operands(layer, args, kwargs):
                note(name, x.detach())

        return hook

    handles = [
        layers[name].register_forward_pre_hook(hook_of(name), with_kwargs=True) for name in names
    ]
    try:
        with torch.no_grad():
            for part in images:
                network(part)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watching_outputs(
    network: Network, names: Sequence[str], note: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """While active, call `note` with outputs of layers; a tensor it returns replaces the output.

    Of attention the output is the first of two, the mixed tokens.
    """

    def hook_of(name: str) -> Callable[..., Any]:
        def hook(layer: nn.Module, inputs: object, output: Any) -> Any:
            if not isinstance(output, tuple):
                return note(name, output)
            changed = note(name, output[0])
            return None if changed is None else (changed, *output[1:])

        return hook

    handles = [
        network.body.get_submodule(name).register_forward_hook(hook_of(name)) for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def called_layers(network: Network, images: Tensor) -> tuple[str, ...]:
    """Return the layers that can be quantized, in the order in which they are first called."""
    called: dict[str, None] = {}
    watch_inputs(network, None, [images], lambda name, _: called.setdefault(name))
    if not called:
        raise ValueError(
            "nothing to quantize: the network calls no convolution, linear layer or attention"
        )
    return tuple(called)


def following_norms(
    network: Network, names: Sequence[str], images: Tensor
) -> dict[str, list[_BatchNorm]]:
    """Return the BatchNorms whose input is the output tensor of a layer, for layers with one."""
    layer_by_output: dict[int, str] = {}
    kept: list[Tensor] = []  # keeps tensors alive: the id of a freed tensor can be reused
    norms: dict[str, list[_BatchNorm]] = {}

    def note(name: str, output: Tensor) -> None:
        layer_by_output[id(output)] = name
        kept.append(output)

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        name = layer_by_output.get(id(inputs[0])) if inputs else None
        if name is not None and isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            norms.setdefault(name, []).append(layer)

    handles = [
        layer.register_forward_pre_hook(look)
        for layer in network.modules()
        if isinstance(layer, _BatchNorm)
    ]
    try:
        with torch.no_grad(), watching_outputs(network, names, note):
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return norms


def _operands(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    if not isinstance(layer, nn.MultiheadAttention):
        return [args[0] if args else kwargs["input"]]
    given = dict(zip(_OPERANDS, args, strict=False)) | kwargs
    operands = [given[name] for name in _OPERANDS]
    # Self-attention shows one tensor three times.
    return list({id(x): x for x in operands}.values())
