"""Taps: see named layers of any network without editing it.

What a tap captures is cloned (differentiably): an in-place activation behind the tapped layer
would otherwise overwrite it, a ReLU after a tapped BatchNorm being the usual case.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from understudy.checks import one_of
from understudy.nets.network import Network
from understudy.protocols import Trace


class Taps:
    """Traces a network's calls: its output and the outputs of the layers named.

    Names are dotted module paths of the architecture (of `Network.body`, where it is one). Use as
    a context manager or call `close`; no hook stays behind.

    Raises:
        ValueError: if a name is not a layer of the network.
    """

    def __init__(self, network: nn.Module, names: Sequence[str] = ()) -> None:
        self.network = network
        root = network.body if isinstance(network, Network) else network
        layers = dict(root.named_modules())
        self._seen: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        for name in names:
            one_of("layer to tap", name, layers)
            self._handles.append(layers[name].register_forward_hook(self._catcher(name)))

    def _catcher(self, name: str) -> Any:
        def catch(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._seen[name] = output.clone()

        return catch

    def trace(self, inputs: Any) -> Trace:
        """Call the network once and return what it answered."""
        self._seen.clear()
        output = self.network(inputs)
        return Trace(output=output, taps=dict(self._seen))

    def close(self) -> None:
        """Remove every hook."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> "Taps":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
