"""The latency that filters cost, from a table measured on the target device.

LAT(W) is the sum over the layers of the table of their latency at their numbers of channels. The
contribution of a group S of channels that can only be removed together is

    I_lat(S) = LAT(W without S) - LAT(W),                (Yin et al., arXiv:1912.08795, eq. 10)

It is negative if the network is faster without the group. The outputs of one layer are the inputs
of the next: both get faster. Between the measured numbers of channels the table is interpolated
bilinearly.

The table is JSON, with milliseconds for each layer, one row for each number of inputs:
    {"layer1.0.conv1": {"inputs": [8, 16], "outputs": [8, 16], "ms": [[0.5, 0.8], [0.9, 1.2]]}}
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from doublure.core.checks import one_of
from doublure.nets.channels import Channels


@dataclass(frozen=True)
class LayerLatency:
    """The latency of one layer, in milliseconds, at numbers of channels in increasing order."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    def at(self, inputs: int, outputs: int) -> float:
        """Return the milliseconds at these numbers, which must be in the measured range."""
        for name, value in (("inputs", inputs), ("outputs", outputs)):
            measured = getattr(self, name)
            if not measured[0] <= value <= measured[-1]:
                raise ValueError(
                    f"latency is measured from {measured[0]} to {measured[-1]} {name}, but needed "
                    f"at {value}; measure more"
                )
        of_row = [np.interp(outputs, self.outputs, row) for row in self.ms]
        return float(np.interp(inputs, self.inputs, of_row))


def read_latencies(path: Path) -> dict[str, LayerLatency]:
    """Return the table in a file.

    Raises:
        ValueError: the file is not such a table; the message names the layer.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the latency table {path}: {error}") from error
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"{path} is no latency table: it must have an object for each layer")
    return {layer: _parse_layer(path, layer, row) for layer, row in rows.items()}


def latency_changes(
    table: Mapping[str, LayerLatency], channels: Channels
) -> Float[Tensor, " labels"]:
    """Return the change of the network's latency, in ms, without each prunable group."""
    changes = dict.fromkeys(channels.prunable, 0.0)
    for name, layer in table.items():
        one_of("layer of the latency table", name, channels.layers)
        inputs, outputs = channels.layers[name]
        read, written = Counter(inputs.tolist()), Counter(outputs.tolist())
        try:
            now = layer.at(len(inputs), len(outputs))
            for label in {*read, *written} & changes.keys():
                without = layer.at(len(inputs) - read[label], len(outputs) - written[label])
                changes[label] += without - now
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return torch.tensor(list(changes.values()), dtype=torch.float64)


def _parse_layer(path: Path, layer: str, row: Any) -> LayerLatency:
    expected = "inputs and outputs in increasing order, and ms with a row for each of the inputs"
    try:
        inputs, outputs = (tuple(map(int, row[name])) for name in ("inputs", "outputs"))
        ms = tuple(tuple(map(float, line)) for line in row["ms"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {layer} must have {expected} ({error})") from error
    ordered = all(list(some) == sorted(set(some)) and some for some in (inputs, outputs))
    fits = len(ms) == len(inputs) and all(len(line) == len(outputs) for line in ms)
    if not ordered or not fits or not np.isfinite(np.array(ms)).all():
        raise ValueError(f"{path}: {layer} must have {expected}")
    return LayerLatency(inputs, outputs, ms)
