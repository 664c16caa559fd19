"""Taps: see named layers of any network without editing it, at a chosen precision.

What a tap captures is cloned (differentiably): an in-place activation behind the tapped layer
would otherwise overwrite it, a ReLU after a tapped BatchNorm being the usual case. Whatever the
precision inside, a trace is float32, so that objectives need not care.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from understudy.checks import one_of
from understudy.nets.network import Network
from understudy.protocols import Trace

Precision = Literal["float32", "bfloat16"]


def device_of(network: nn.Module) -> torch.device:
    """Return where the network's parameters live; the CPU for one that has none."""
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


class Taps:
    """Traces a network's calls: its output and the outputs of the layers named.

    Names are dotted module paths of the architecture (of `Network.body`, where it is one). Use as
    a context manager or call `close`; no hook stays behind.

    Raises:
        ValueError: if a name is not a layer of the network.
    """

    def __init__(
        self, network: nn.Module, names: Sequence[str] = (), precision: Precision = "float32"
    ) -> None:
        self.network = network
        self._autocast = precision == "bfloat16"
        self._device = device_of(network).type
        root = network.body if isinstance(network, Network) else network
        layers = dict(root.named_modules())
        self._names = tuple(names)
        self._seen: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        for name in names:
            one_of("layer to tap", name, layers)
        for name in names:
            self._handles.append(layers[name].register_forward_hook(self._catcher(name)))

    def _catcher(self, name: str) -> Any:
        def catch(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                kind = type(output).__name__
                raise TypeError(f"the tapped layer '{name}' answers with {kind}, not a tensor")
            self._seen[name] = output.clone()

        return catch

    def trace(self, inputs: Any) -> Trace:
        """Call the network once and return what it answered."""
        self._seen.clear()
        with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._autocast):
            output = self.network(inputs)
        for name in self._names:
            if name not in self._seen:
                raise ValueError(f"the tapped layer '{name}' was not called by the network")
        taps = {name: _as_float32(value) for name, value in self._seen.items()}
        return Trace(output=_as_float32(output), taps=taps)

    def close(self) -> None:
        """Remove every hook."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> "Taps":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _as_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, Mapping):
        return {name: _as_float32(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_float32(item) for item in value]
    return value
