"""The description in an exported file: its inputs and outputs, as text values by name."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from doublure.nets.network import Network, freeze

INPUT, OUTPUT = "images", "logits"


def named_outputs(output: Any) -> dict[str, Any]:
    """Return the parts of an output by name: "logits" for a single tensor."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, Sequence):
        return {f"output_{place}": part for place, part in enumerate(output)}
    return {OUTPUT: output}


@torch.no_grad()
def output_names(network: Network[Any]) -> tuple[str, ...]:
    """Return the names of a network's outputs, as in `named_outputs`."""
    frozen = freeze(network).to("cpu", torch.float32)
    output = frozen(network.contract.blank(1, torch.device("cpu")))
    for name, part in named_outputs(output).items():
        if not isinstance(part, Tensor):
            raise ValueError(
                f"the network's output '{name}' is a {type(part).__name__}; only tensors, alone or "
                f"in one dict or list, can be exported"
            )
    return tuple(named_outputs(output))


def describe(network: Network[Any]) -> dict[str, str]:
    """Return the network's contract as JSON values; normalisation is inside the network."""
    contract = network.contract
    names = {"names": "class_names"}
    values = {
        names.get(item.name, item.name): getattr(contract, item.name)
        for item in dataclasses.fields(contract)
    }
    if contract.normalisation is not None:
        values["input"] = f"{INPUT}: float NCHW in [0, 1]; mean and std are applied inside"
    values |= {
        "output": ", ".join(output_names(network)),
        "reference": network.reference,
        "doublure": importlib.metadata.version("doublure"),
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
