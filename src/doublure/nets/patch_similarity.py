"""Patch similarity: an image prior from vision transformers, which have no BatchNorm statistics.

In each attention layer the patches of an image have outputs o_i; s_ij = cos(o_i, o_j), i < j. In
natural images some patches are similar and others are not, so that the s_ij vary; in noise all are
similar. Their diversity is the differential entropy of their density f,
    f(s) = mean_ij N(s; s_ij, h^2),      H = -integral f log f,
and images are optimised for a large sum of H over the layers. No stored statistics are needed.

The density is computed on a grid: each s_ij is divided between its two neighbours, then blurred by
the kernel, so that memory grows with the number of pairs, not with pairs times grid.

Li, Ma, Chen, Xiao, Gu: Patch Similarity Aware Data-Free Quantization for Vision Transformers,
arXiv:2203.02250. Differs from the paper: the heads' outputs are concatenated where its code
averages them; h = 0.05 on a grid as fine as h / 4, where its code has h = 0.01 at ten points; a
patch is not compared with itself. Window attention is not supported.
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
# Grid nodes per bandwidth, and kernel radius in bandwidths.
_NODES, _REACH = 4, 4
# Below the kernel's tail: the slope of f log f is infinite at f = 0.
_LEAST = 1e-6


def patch_similarities(
    tokens: Float[Tensor, "batch patches dim"],
) -> Float[Tensor, "batch pairs"]:
    """Return the cosine similarity of each pair of patches of an image, once per pair."""
    unit = F.normalize(tokens, dim=-1)
    rows, columns = torch.triu_indices(tokens.shape[1], tokens.shape[1], offset=1)
    return (unit @ unit.transpose(1, 2))[:, rows, columns]


def spread(similarities: Float[Tensor, "batch pairs"], bandwidth: float) -> Float[Tensor, " batch"]:
    """Return the differential entropy of values in [-1, 1] under their kernel density, in nats."""
    step = bandwidth / _NODES
    beyond = _NODES * _REACH  # nodes on each side outside of [-1, 1]
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
    """Return the sum over layers of the mean entropy of the similarities."""
    spreads = [spread(patch_similarities(of_layer), BANDWIDTH).mean() for of_layer in tokens]
    return torch.stack(spreads).sum()


def attention_layers(network: nn.Module) -> tuple[str, ...]:
    """Return the dotted paths of the attention layers."""
    return tuple(name for name, layer in network.named_modules() if _attends(layer))


def require_attention(network: nn.Module) -> tuple[str, ...]:
    """Return the attention layers; raises ValueError if there is none."""
    names = attention_layers(network)
    if not names:
        raise ValueError(
            "patch similarity needs attention layers (nn.MultiheadAttention, or modules with qkv "
            "and proj), but the teacher has none; set "
            "patches to 0"
        )
    return names


class PatchRecorder:
    """Records the outputs of patches in attention layers, in calls of the network.

    Use as a context manager or call `close`, which removes all hooks. Tokens before the patches,
    such as a class token, are omitted: those beyond the positions of the patch embedding.
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
        """Return the outputs of each layer called since the last `read`, in order of calls."""
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
                f"image, but one has outputs of shape {tuple(tokens.shape)}; set patches to 0"
            )
        self._tokens.append(tokens[:, before:].float())


def _attends(layer: nn.Module) -> bool:
    if isinstance(layer, nn.MultiheadAttention):
        return True
    parts = dict(layer.named_children())
    return all(isinstance(parts.get(name), nn.Linear) for name in ("qkv", "proj"))
