"""Fewer channels: narrow a layer to its kept channels, and a network by its record.

The record {"kind": "pruned", "layers": {name: [inputs, outputs]}} holds sizes only: the weights of
the kept channels are in their own file.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from doublure.nets.resnet import ZeroPadShortcut

KIND = "pruned"
# Indices of a layer's kept inputs and outputs.
Kept = tuple[Tensor, Tensor]


def narrow_(body: nn.Module, kept: Mapping[str, Kept]) -> None:
    """Keep only these inputs and outputs of the named layers."""
    for name, (inputs, outputs) in kept.items():
        layer = body.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            _narrow_convolution_(layer, inputs, outputs)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            _narrow_normalisation_(layer, outputs)
        elif isinstance(layer, nn.Linear):
            layer.weight = _parameter(layer.weight, layer.weight[outputs][:, inputs])
            if layer.bias is not None:
                layer.bias = _parameter(layer.bias, layer.bias[outputs])
            layer.in_features, layer.out_features = len(inputs), len(outputs)
        elif isinstance(layer, ZeroPadShortcut):  # numbers of zero channels before and after
            layer.before, layer.after = len(inputs), len(outputs)
        else:
            raise ValueError(f"cannot narrow '{name}', a {type(layer).__name__}")


def sizes(body: nn.Module, name: str) -> list[int]:
    """Return the numbers of inputs and outputs of a layer, as in a record."""
    layer = body.get_submodule(name)
    if isinstance(layer, nn.Conv2d):
        return [layer.in_channels, layer.out_channels]
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return [layer.num_features, layer.num_features]
    if isinstance(layer, nn.Linear):
        return [layer.in_features, layer.out_features]
    if isinstance(layer, ZeroPadShortcut):
        return [layer.before, layer.after]
    raise ValueError(f"cannot narrow '{name}', a {type(layer).__name__}")


def record_of(body: nn.Module, layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a network with these narrowed layers."""
    return {"kind": KIND, "layers": {name: sizes(body, name) for name in sorted(layers)}}


def rebuild_(body: nn.Module, record: Mapping[str, Any]) -> None:
    """Give the layers of a new architecture the sizes of a record; its weights are loaded later."""
    kept = {}
    for name, (inputs, outputs) in record["layers"].items():
        for size, largest in zip((inputs, outputs), sizes(body, name), strict=True):
            if not 0 <= size <= largest:
                raise ValueError(f"'{name}' cannot have {size} of its {largest} channels")
        kept[name] = (torch.arange(inputs), torch.arange(outputs))
    narrow_(body, kept)


def _narrow_convolution_(layer: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> None:
    weight = layer.weight[outputs]
    if layer.groups == 1:
        weight = weight[:, inputs]
    else:  # depthwise: an output for each input
        layer.groups = len(outputs)
    layer.weight = _parameter(layer.weight, weight)
    if layer.bias is not None:
        layer.bias = _parameter(layer.bias, layer.bias[outputs])
    layer.in_channels, layer.out_channels = len(inputs), len(outputs)


def _narrow_normalisation_(layer: nn.modules.batchnorm._BatchNorm, outputs: Tensor) -> None:
    for name in ("weight", "bias"):
        values = getattr(layer, name)
        if values is not None:
            setattr(layer, name, _parameter(values, values[outputs]))
    for name in ("running_mean", "running_var"):
        values = getattr(layer, name)
        if values is not None:
            setattr(layer, name, values[outputs].clone())
    layer.num_features = len(outputs)


def _parameter(old: Tensor, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone(), requires_grad=old.requires_grad)
