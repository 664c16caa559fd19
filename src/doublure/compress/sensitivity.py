"""How much a network minds few bits in one layer, without labels.

D(l, b) = mean over images of KL(p || p_lb), p the network's class probabilities and p_lb those with
the weights and inputs of layer l alone on grids of b bits (Cai et al.: ZeroQ, arXiv:2001.00281,
sec. 3.2, which rounds weights alone). F(l, b) is the share of images whose class is another one.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from doublure.compress.layer_calls import called_layers, watching_outputs
from doublure.compress.post_training_quantization import PostTrainingQuantization
from doublure.core.protocols import image_batch
from doublure.nets.network import Network
from doublure.nets.quantized import Grid, Quantized, quantize_, unfold_attention_
from doublure.nets.rounding import FLOAT

# Positions of these outputs are all dimensions but the last.
_ALONG_LAST = (nn.Linear, nn.MultiheadAttention)


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """D and F by layer and bits.

    Args:
        layers: in the order in which they are called.
        weights: how many each holds.
        macs: products of each, for one image.
    """

    layers: tuple[str, ...]
    bits: tuple[int, ...]
    divergence: Float[Tensor, "layers bits"]
    flips: Float[Tensor, "layers bits"]
    weights: Float[Tensor, " layers"]
    macs: Float[Tensor, " layers"]


def mean_divergence(
    logits: Float[Tensor, "images classes"], rounded: Float[Tensor, "images classes"]
) -> float:
    """Return the mean KL(p || p_rounded), in nats."""
    log_p, log_q = logits.log_softmax(-1), rounded.log_softmax(-1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).mean().item()


def flipped(
    logits: Float[Tensor, "images classes"], rounded: Float[Tensor, "images classes"]
) -> Bool[Tensor, " images"]:
    """Return whether the class named is another one."""
    return logits.argmax(-1) != rounded.argmax(-1)


class LayerBits:
    """A network whose layers can be put on grids of any of some bits, one by one.

    Args:
        quantization: how; its bits, and what it does beyond the nearest rounding, do not count.
        weight_bits: of all weights that are rounded; None for the same bits as the inputs.
    """

    def __init__(
        self,
        network: Network,
        images: Tensor,
        bits: Sequence[int],
        quantization: PostTrainingQuantization,
        weight_bits: int | None = None,
    ) -> None:
        self.bits = tuple(bits)
        self.network = copy.deepcopy(network).eval()
        unfold_attention_(self.network.body)
        self.layers = called_layers(self.network, images[:1])
        free = Grid(weight_bits=FLOAT, activation_bits=FLOAT)
        plain = replace(
            quantization,
            rounding="nearest",
            correct_bias=False,
            equalise=False,
            first_last_bits=0,
            layer_bits=(),
        )
        quantize_(self.network.body, dict.fromkeys(self.layers, free))
        self._float = {name: self._held(self.network, name) for name in self.layers}
        self._rounded: dict[int, dict[str, tuple[Grid, Any]]] = {}
        for width in bits:
            settings = replace(plain, weight_bits=weight_bits or width, activation_bits=width)
            made = settings(network, [image_batch(images)], torch.Generator())
            self._rounded[width] = {name: self._held(made, name) for name in self.layers}

    def set(self, bits: Sequence[int]) -> None:
        """Put each layer, in the order of `layers`, on grids of so many bits; 32 for none."""
        for name, width in zip(self.layers, bits, strict=True):
            layer = self.network.body.get_submodule(name)
            grid, weight = (self._float if width == FLOAT else self._rounded[width])[name]
            layer.grid = grid  # type: ignore[assignment]  # nn.Module types attributes as tensors
            if weight is not None:
                layer._parameters["weight"] = weight

    @torch.no_grad()
    def answers(self, bits: Sequence[int], images: Tensor) -> Float[Tensor, "images classes"]:
        """Return the logits with these bits."""
        self.set(bits)
        logits: Tensor = self.network(images)
        return logits

    @staticmethod
    def _held(network: Network, name: str) -> tuple[Grid, nn.Parameter | None]:
        layer = network.body.get_submodule(name)
        assert isinstance(layer, Quantized)
        return layer.grid, layer._parameters.get("weight")


def measure_sensitivity(
    network: Network,
    images: Float[Tensor, "images channels height width"],
    bits: Sequence[int],
    quantization: PostTrainingQuantization,
    weight_bits: int | None = None,
) -> Sensitivity:
    """Return D and F of every layer of a network that names classes.

    Args:
        weight_bits: of the layer's weights; None for as many as its inputs have.
    """
    stepping = LayerBits(network, images, bits, quantization, weight_bits)
    return sensitivity_of(stepping, images)


def sensitivity_of(stepping: "LayerBits", images: Tensor) -> Sensitivity:
    """Return D and F on some images of a network whose layers can be rounded one by one."""
    bits = stepping.bits
    count = len(stepping.layers)
    plain = stepping.answers([FLOAT] * count, images)
    if plain.dim() != 2 or not plain.isfinite().all():
        raise ValueError(
            f"bits are chosen by the class probabilities of images, and the network answers with "
            f"shape {tuple(plain.shape)}, {'not ' * (not plain.isfinite().all())}all finite"
        )
    divergence = torch.zeros(count, len(bits), dtype=torch.float64)
    flips = torch.zeros_like(divergence)
    for place in range(count):
        for column, width in enumerate(bits):
            policy = [FLOAT] * count
            policy[place] = width
            rounded = stepping.answers(policy, images)
            divergence[place, column] = mean_divergence(plain, rounded)
            flips[place, column] = flipped(plain, rounded).double().mean()
    weights, macs = layer_sizes(stepping.network, stepping.layers, images[:1])
    return Sensitivity(
        layers=stepping.layers,
        bits=bits,
        divergence=divergence,
        flips=flips,
        weights=weights,
        macs=macs,
    )


def layer_sizes(
    network: Network, names: Sequence[str], image: Tensor
) -> tuple[Float[Tensor, " layers"], Float[Tensor, " layers"]]:
    """Return how many weights each layer holds, and how many products an image takes there."""
    looked = copy.deepcopy(network).eval()
    unfold_attention_(looked.body)
    layers = {name: looked.body.get_submodule(name) for name in names}
    held = {
        name: sum(p.numel() for p in layer.parameters() if p.dim() > 1)
        for name, layer in layers.items()
    }
    for name in names:  # attention holds its output projection, which counts for itself
        held[name] -= held.get(f"{name}.out_proj", 0)
    macs = dict.fromkeys(names, 0)

    def note(name: str, output: Tensor) -> None:
        channels = output.shape[-1 if isinstance(layers[name], _ALONG_LAST) else 1]
        macs[name] += held[name] * (output[0].numel() // channels)

    with torch.no_grad(), watching_outputs(looked, names, note):
        looked(image)
    whole = torch.tensor([held[name] for name in names], dtype=torch.float64)
    return whole, torch.tensor([macs[name] for name in names], dtype=torch.float64)


@contextmanager
def one_thread() -> Iterator[None]:
    """While active, torch computes in one thread, so that times can be compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
