"""Taps: record the outputs of named layers of any network, at a chosen precision.

Recorded values are (differentiable) clones: an in-place activation after the layer would otherwise
overwrite them, for example a ReLU after BatchNorm. All values are float32, independent of the
network's precision.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from doublure.core.checks import one_of
from doublure.core.protocols import Outputs
from doublure.nets.network import Network
from doublure.nets.precision import Precision

# Suffix of a layer's name: its input instead of its output.
INPUT = ":input"
_HALVES = (torch.bfloat16, torch.float16)


def device_of(network: nn.Module) -> torch.device:
    """Return the device of the network's parameters; the CPU if there are none."""
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def architecture(network: nn.Module) -> nn.Module:
    """Return the module to which layer paths are relative: the body of a `Network`, or itself."""
    return network.body if isinstance(network, Network) else network


def layers_where(
    network: nn.Module, predicate: Callable[[str, nn.Module], bool]
) -> tuple[str, ...]:
    """Return the names of the layers for which `predicate(name, layer)` holds, in their order."""
    named = architecture(network).named_modules()
    return tuple(name for name, layer in named if name and predicate(name, layer))


class FeatureRecorder:
    """Records the output of a network and of named layers.

    Names are dotted module paths of the architecture (of `Network.body` for a `Network`);
    "NAME:input" is the first argument of a layer. If a layer is called several times, the last call
    counts. Use as a context manager or call `close`, which removes all hooks.

    Raises:
        ValueError: if a name is not a layer of the network.
    """

    def __init__(
        self, network: nn.Module, names: Sequence[str] = (), precision: Precision = "float32"
    ) -> None:
        self.network = network
        self._autocast = precision == "bfloat16"
        self._device = device_of(network).type
        layers = dict(architecture(network).named_modules())
        self._names = tuple(names)
        self._seen: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        for name in names:
            one_of("layer to tap", name.removesuffix(INPUT), layers)
        for name in dict.fromkeys(names):
            self._handles.append(self._hooked(name, layers[name.removesuffix(INPUT)]))

    def _hooked(self, name: str, layer: nn.Module) -> RemovableHandle:
        def keep(value: Any) -> None:
            if not isinstance(value, Tensor):
                kind = type(value).__name__
                raise TypeError(f"the output of the layer '{name}' is {kind}, not a tensor")
            self._seen[name] = value.clone()

        def before(module: nn.Module, inputs: Any) -> None:
            keep(inputs[0] if inputs else None)

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            keep(output)

        if name.endswith(INPUT):
            return layer.register_forward_pre_hook(before)
        return layer.register_forward_hook(after)

    def record(self, inputs: Any) -> Outputs:
        """Call the network once and return its output and features."""
        self._seen.clear()
        with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._autocast):
            output = self.network(inputs)
        for name in self._names:
            if name not in self._seen:
                raise ValueError(f"the tapped layer '{name}' was not called by the network")
        features = {name: _as_float32(value) for name, value in self._seen.items()}
        return Outputs(output=_as_float32(output), features=features)

    def close(self) -> None:
        """Remove every hook."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> "FeatureRecorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _as_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALVES else value
    if isinstance(value, Mapping):
        return {name: _as_float32(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_float32(item) for item in value]
    return value
