"""A network that answers images of half its size for a while: what changes, and at what cost.

Whether it can is tried before anything else: without gradients, in eval mode, on blank images.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.nets.features import device_of
from doublure.nets.network import Network
from doublure.nets.pooled_conv import Pooling, can_be_pooled, pooled_conv2d
from doublure.nets.preserve_state import preserve_state

# Pixels a side that every map keeps at half size; of fewer, one in four is at two edges.
_LEAST = 4
_FORWARD = "forward"


class SmallSteps:
    """Replaces the forward of layers between `begin` and `end`.

    Args:
        network: that takes images.
        pooling: of filters; None keeps them as they are.
        own_statistics: BatchNorm leaves its running statistics alone meanwhile.

    Raises:
        ValueError: the network cannot answer images of half the size, or is left with too small
            maps.
    """

    def __init__(
        self, network: nn.Module, pooling: Pooling | None, *, own_statistics: bool
    ) -> None:
        if not isinstance(network, Network) or network.contract.normalisation is None:
            raise ValueError(
                f"small steps are for a Network that takes images, which this "
                f"{type(network).__name__} does not; leave them out"
            )
        self._network = network
        self.under_way = False
        self._replaced: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = []
        convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        larger = [layer for layer in convolutions if max(layer.kernel_size) > 1]
        pooled = [layer for layer in larger if can_be_pooled(layer)] if pooling else []
        for i, layer in enumerate(pooled):
            assert pooling is not None
            forward = functools.partial(
                pooled_conv2d, layer=layer, kind=pooling, more_before=i % 2 == 1
            )
            self._replaced.append((layer, forward))
        for norm in network.modules() if own_statistics else ():
            if isinstance(norm, _BatchNorm):
                self._replaced.append((norm, functools.partial(_by_its_batch, norm)))
        full, small = self._try()
        self.operations = sum(full.operations), sum(small.operations)
        self.notes = self._describe(len(pooled), len(larger), pooling)

    def begin(self) -> None:
        self.under_way = True
        for layer, forward in self._replaced:
            vars(layer)[_FORWARD] = forward

    def end(self) -> None:
        for layer, _ in self._replaced:
            vars(layer).pop(_FORWARD, None)
        self.under_way = False

    def _try(self) -> "tuple[_Costs, _Costs]":
        images = self._network.contract.blank(2, device_of(self._network))
        height, width = images.shape[2:]
        if height % 2 or width % 2:
            raise ValueError(f"{height} x {width} images have no half size; take an even --size")
        with torch.no_grad(), preserve_state(self._network, 0, evaluate=True) as network:
            full = _Costs(network, images)
            self.begin()
            try:
                small = _Costs(network, images[:, :, ::2, ::2])
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"the network does not answer images of {height // 2} x {width // 2} beside "
                    f"those of {height} x {width}, to whose size a layer is fixed; take one with "
                    "global pooling before its classifier, or leave --interleave out"
                ) from error
            finally:
                self.end()
        # A map of one pixel in full steps is no map: what squeezes and excites.
        sides = [s for f, s in zip(full.sides, small.sides, strict=True) if f > 1]
        if sides and min(sides) < _LEAST:
            factor = math.ceil(_LEAST / min(sides))
            raise ValueError(
                f"at half of {height} x {width} the network is left with maps of {min(sides)} "
                f"pixels a side, and {_LEAST} are needed; take images of "
                f"{factor * height} x {factor * width} at least, or leave --interleave out"
            )
        return full, small

    def _describe(self, pooled: int, larger: int, pooling: Pooling | None) -> tuple[str, ...]:
        full, small = self.operations
        cost = f"a small step takes {small / full:.0%} of a full one's operations"
        if pooling is None:
            return (f"{cost}; filters stay as they are",)
        kept = larger - pooled
        told = f"{pooled} of {larger} convolutions have pooled filters then"
        why = (
            f"; {kept} with dilated or even filters, or other padding, keep theirs" if kept else ""
        )
        return (f"{cost}; {told}{why}",)


class _Costs:
    """Multiply-accumulates for one image, and the shortest side of the map, by convolution."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.operations: list[int] = []
        self.sides: list[int] = []
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        handles = [layer.register_forward_hook(self._look) for layer in layers]
        try:
            network(images)
        finally:
            for handle in handles:
                handle.remove()

    def _look(self, layer: nn.Conv2d, inputs: Any, output: Tensor) -> None:
        sizes = layer.kernel_size
        if _FORWARD in vars(layer):
            sizes = tuple((size + 1) // 2 for size in sizes)
        taps = math.prod(sizes) * layer.in_channels // layer.groups
        self.operations.append(taps * output[0].numel())
        self.sides.append(min(output.shape[2:]))


def _by_its_batch(layer: _BatchNorm, images: Tensor) -> Tensor:
    """Return what BatchNorm makes of a batch by that batch alone; in eval mode as always."""
    if not layer.training:
        return type(layer).forward(layer, images)
    return F.batch_norm(images, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)
