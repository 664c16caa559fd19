"""Patch similarity: what a vision transformer makes of images, where it has no BatchNorm to ask.

In each attention layer the patches of an image have mixed values o_i; s_ij = cos(o_i, o_j), i < j.
Of natural images some patches are alike and others are not, so that the s_ij spread; of noise all
are alike. How they spread is the differential entropy of their density f,
    f(s) = mean_ij N(s; s_ij, h^2),      H = -integral f log f,
and images are asked for a large sum of H over the layers. Nothing has to be stored for it.

The density is taken on a grid: each s_ij is shared by its two neighbours, then blurred by the
kernel, so that memory grows with the pairs and not with pairs times grid.

Li, Ma, Chen, Xiao, Gu: Patch Similarity Aware Data-Free Quantization for Vision Transformers,
arXiv:2203.02250. Differs from the paper: the heads' values stand side by side where its code takes
their mean; h = 0.05 on a grid as fine as h / 4, where its code has h = 0.01 at ten points; a patch
is not compared with itself. Layers that attend within windows are not known here.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

BANDWIDTH = 0.05
# Nodes of the grid a bandwidth, and bandwidths that a kernel reaches.
_NODES, _REACH = 4, 4
# Below what a kernel leaves at its end: the slope of f log f is infinite where f is 0.
_LEAST = 1e-6


def patch_similarities(
    tokens: Float[Tensor, "batch patches dim"],
) -> Float[Tensor, "batch pairs"]:
    """Return the cosine of each pair of patches of an image, every pair once."""
    unit = F.normalize(tokens, dim=-1)
    rows, columns = torch.triu_indices(tokens.shape[1], tokens.shape[1], offset=1)
    return (unit @ unit.transpose(1, 2))[:, rows, columns]


def spread(similarities: Float[Tensor, "batch pairs"], bandwidth: float) -> Float[Tensor, " batch"]:
    """Return the differential entropy of values in [-1, 1] under their kernel density, in nats."""
    step = bandwidth / _NODES
    beyond = _NODES * _REACH  # nodes outside of [-1, 1] on either side
    nodes = math.ceil(2 / step) + 2 * beyond + 2
    place = (similarities + 1) / step + beyond
    low = place.detach().floor().clamp(0, nodes - 2).long()
    part = (place - low) / similarities.shape[1]
    mass = similarities.new_zeros(len(similarities), nodes)
    mass = mass.scatter_add(1, low, 1 / similarities.shape[1] - part)
    mass = mass.scatter_add(1, low + 1, part)
    around = torch.arange(-beyond, beyond + 1, device=mass.device, dtype=mass.dtype) / _NODES
    kernel = torch.exp(-around.square() / 2) / (bandwidth * math.sqrt(2 * math.pi))
    density = F.conv1d(mass[:, None], kernel.view(1, 1, -1), padding=beyond)[:, 0]
    entropy: Tensor = torch.special.entr(density.clamp(min=_LEAST)).sum(-1)
    return entropy * step


def patch_entropy(tokens: Iterable[Float[Tensor, "batch patches dim"]]) -> Float[Tensor, ""]:
    """Return the sum over layers of the mean spread of an image's similarities."""
    spreads = [spread(patch_similarities(of_layer), BANDWIDTH).mean() for of_layer in tokens]
    return torch.stack(spreads).sum()


def attention_layers(network: nn.Module) -> tuple[str, ...]:
    """Return the dotted paths of the layers in which tokens attend to each other."""
    return tuple(name for name, layer in network.named_modules() if _attends(layer))


def required_attention(network: nn.Module) -> tuple[str, ...]:
    """Return the attention layers; raises ValueError where there is none."""
    names = attention_layers(network)
    if not names:
        raise ValueError(
            "patch similarity needs layers in which patches attend to each other (an "
            "nn.MultiheadAttention, or one with qkv and proj), but the teacher has none; set "
            "patches to 0"
        )
    return names


class PatchRecorder:
    """Takes the values that patches have in attention layers, as the network is called.

    Use as a context manager or call `close`; no hook stays behind. Tokens that stand before the
    patches, such as a class token, are left out: those past the places of the last convolution.
    """

    def __init__(self, network: nn.Module, names: Iterable[str]) -> None:
        layers = dict(network.named_modules())
        self._tokens: list[Tensor] = []
        self._places = 0
        self._handles: list[RemovableHandle] = []
        names = tuple(names)
        for name in names:
            layer = layers[name]
            if isinstance(layer, nn.MultiheadAttention):
                self._handles.append(layer.register_forward_hook(self._see_output))
            else:
                projection = layer.get_submodule("proj")
                self._handles.append(projection.register_forward_pre_hook(self._see_input))
        for layer in layers.values() if names else ():
            if isinstance(layer, nn.Conv2d):
                self._handles.append(layer.register_forward_hook(self._see_places))

    def read(self) -> tuple[Float[Tensor, "batch patches dim"], ...]:
        """Return the values of each layer called since the last reading, in order of calls."""
        read, self._tokens = tuple(self._tokens), []
        return read

    def close(self) -> None:
        """Remove every hook."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> "PatchRecorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _see_places(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self._places = output.shape[-2] * output.shape[-1]

    def _see_output(self, layer: nn.MultiheadAttention, inputs: Any, output: Any) -> None:
        self._take(output[0] if layer.batch_first else output[0].transpose(0, 1))

    def _see_input(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._take(inputs[0])

    def _take(self, tokens: Tensor) -> None:
        before = tokens.shape[1] - self._places if tokens.dim() == 3 else -1
        if before < 0 or self._places < 2:
            raise ValueError(
                f"patch similarity needs layers that attend to all {self._places} patches of an "
                f"image, but one sees values of shape {tuple(tokens.shape)}; set patches to 0"
            )
        self._tokens.append(tokens[:, before:].float())


def _attends(layer: nn.Module) -> bool:
    if isinstance(layer, nn.MultiheadAttention):
        return True
    parts = dict(layer.named_children())
    return all(isinstance(parts.get(name), nn.Linear) for name in ("qkv", "proj"))
