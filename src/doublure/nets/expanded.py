"""More classes: the last linear layer with additional rows.

The record {"kind": "widened", "layer": name, "classes": n} names the layer.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

KIND = "expanded"


def last_linear(body: nn.Module, classes: int) -> str:
    """Return the name of the linear layer with one output per class.

    Raises:
        ValueError: if no linear layer has as many outputs as there are classes.
    """
    found: list[str] = [
        name
        for name, layer in body.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == classes
    ]
    if not found:
        raise ValueError(
            f"no linear layer of {type(body).__name__} has an output for each of its {classes} "
            "classes, so it cannot learn new ones"
        )
    return found[-1]


def expand_classifier_(body: nn.Module, name: str, classes: int, rng: torch.Generator) -> None:
    """Give a linear layer outputs for `classes` classes; the old rows stay as they are.

    New rows are normal with the standard deviation of the old ones, and their biases start at the
    mean of the old ones, so that no class has an advantage.
    """
    layer = body.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    more = classes - layer.out_features
    if more < 0:
        raise ValueError(f"'{name}' has {layer.out_features} outputs already, not {classes}")
    if more == 0:
        return
    old = layer.weight.detach()
    spread = old.std() if old.numel() > 1 else old.abs().mean()
    drawn = torch.randn(more, layer.in_features, generator=rng).to(old) * spread
    asked = layer.weight.requires_grad
    layer.weight = nn.Parameter(torch.cat((old, drawn)), requires_grad=asked)
    if layer.bias is not None:
        bias = layer.bias.detach()
        layer.bias = nn.Parameter(torch.cat((bias, bias.mean().expand(more))), requires_grad=asked)
    layer.out_features = classes


def record_of(name: str, classes: int) -> dict[str, Any]:
    """Return the record of a network with an expanded layer `name`."""
    return {"kind": KIND, "layer": name, "classes": classes}


def rebuild_(body: nn.Module, record: Mapping[str, Any]) -> None:
    """Give a new architecture the classes of a record; its weights are loaded later."""
    expand_classifier_(body, record["layer"], record["classes"], torch.Generator().manual_seed(0))
