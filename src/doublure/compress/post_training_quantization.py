"""Post-training quantization: weights and layer inputs on grids, ranges from calibration images.

A layer's inputs get one static range, by `compress.activation_ranges`, or a dynamic one: that of
each sample when it comes. Weights are rounded to the nearest integer, or up or down as the outputs
of their layer like it best (`compress.adaptive_rounding`); "mse" clips them first. Before that,
layers in a row can be equalised (`compress.equalisation`); after it, the mean of each channel can
be corrected (`compress.bias_correction`). The first and the last layer can have more bits, and any
layer its own.

Differs from the paper: the paper is about the choice of calibration images, and fixes no quantizer.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from doublure.compress.activation_ranges import (
    CalibrationMethod,
    calibrated_ranges,
    mse_clip_weight,
)
from doublure.compress.adaptive_rounding import round_adaptively_
from doublure.compress.bias_correction import correct_bias_
from doublure.compress.equalisation import equalise
from doublure.compress.layer_calls import called_layers
from doublure.core.cards import Card
from doublure.core.checks import one_of
from doublure.core.protocols import Batch
from doublure.nets.network import Network
from doublure.nets.quantized import (
    Grid,
    holds_plain_weight,
    is_quantized,
    quantize_,
    record_of,
    unfold_attention_,
)
from doublure.nets.rounding import FLOAT, affine, symmetric

CARD = Card(
    paper="Haroush, Hubara, Hoffer, Soudry: The Knowledge Within, arXiv:1912.01274",
    needs=("weights",),
)

Ranges = Literal["static", "dynamic"]
Rounding = Literal["nearest", "adaptive"]
# Bit widths of weights and inputs, by layer.
Bits = Mapping[str, tuple[int, int]]
FEWEST_BITS, MOST_BITS = 2, 8


@dataclass(frozen=True, kw_only=True)
class PostTrainingQuantization:
    """Transform: quantization, by default to 8 bits with the observed ranges.

    Args:
        weight_bits: bit width of the weights, 2 to 8; 32 does not quantize them.
        activation_bits: bit width of the layers' inputs, 2 to 8; 32 does not quantize them.
        first_last_bits: minimum bit width of weights and inputs in the first and the last layer; 0
            sets no minimum.
        layer_bits: of single layers, as "NAME=4" or "NAME=4/8" for weights and inputs; a minimum
            does not apply to them.
        ranges: "static" ranges of inputs come from calibration, "dynamic" ones from each sample.
        symmetric: whether the range of inputs is as far below 0 as above.
        calibration_method: how static ranges are computed: "minmax", "percentile" or "mse".
        percentile: share of the values inside the range, in percent; only for "percentile".
        rounding: of weights: "nearest", or "adaptive" to the layer's outputs.
        equalise: equalise channels between layers in a row first.
        correct_bias: correct the mean of each output channel.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    first_last_bits: int = 8
    layer_bits: tuple[str, ...] = ()
    ranges: Ranges = "static"
    symmetric: bool = False
    calibration_method: CalibrationMethod = "minmax"
    percentile: float = 99.99
    rounding: Rounding = "nearest"
    equalise: bool = False
    correct_bias: bool = False

    def __post_init__(self) -> None:
        one_of("calibration_method", self.calibration_method, get_args(CalibrationMethod))
        one_of("ranges", self.ranges, get_args(Ranges))
        one_of("rounding", self.rounding, get_args(Rounding))
        for name in ("weight_bits", "activation_bits"):
            _check_bits(name, getattr(self, name), (FLOAT,))
        _check_bits("first_last_bits", self.first_last_bits, (FLOAT, 0))
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be in (50, 100], got {self.percentile}")
        parse_layer_bits(self.layer_bits)

    def __call__(
        self, model: nn.Module, batches: Iterable[Batch] | None, rng: torch.Generator
    ) -> Network:
        """Return the quantized `model`, with ranges computed on the images of `batches`."""
        images = [batch.images for batch in batches or ()]
        if not images:
            raise ValueError("quantization needs calibration images, got none")
        if not isinstance(model, Network):
            raise TypeError(f"quantization needs a Network, got {type(model).__name__}")
        if is_quantized(model):
            raise ValueError("the network is already quantized; start from the float network")
        if self.weight_bits == self.activation_bits == FLOAT and not self.layer_bits:
            raise ValueError("weight_bits and activation_bits are both 32: nothing to quantize")
        reference = copy.deepcopy(model).eval()
        if self.equalise:
            reference, _ = equalise(reference, images[0])
        unfold_attention_(reference.body)
        quantized = copy.deepcopy(reference)
        names = called_layers(quantized, images[0][:1])
        bits = self._bits(names)
        grids = self._grids(quantized, images, bits)
        self._round_weights_(quantized, images, bits)
        quantize_(quantized.body, grids)
        if self.correct_bias:
            correct_bias_(reference, quantized, names, torch.cat(images))
        quantized.plan = (*model.plan, record_of(quantized.body))
        return quantized.train(model.training)

    def _bits(self, names: Sequence[str]) -> Bits:
        minimum = self.first_last_bits
        ends = {names[0], names[-1]}
        inner = (self.weight_bits, self.activation_bits)
        bits = {
            name: (max(inner[0], minimum), max(inner[1], minimum)) if name in ends else inner
            for name in names
        }
        for name, own in parse_layer_bits(self.layer_bits).items():
            bits[one_of("layer", name, names)] = own
        return bits

    def _grids(self, network: Network, images: Sequence[Tensor], bits: Bits) -> dict[str, Grid]:
        dynamic = self.ranges == "dynamic"
        spacing = symmetric if self.symmetric else affine
        rounded = {name: two[1] for name, two in bits.items() if two[1] != FLOAT}
        # Dynamic ranges are not needed, but what is not finite is found on the way.
        ranges = calibrated_ranges(
            network,
            images,
            rounded,
            "minmax" if dynamic else self.calibration_method,
            self.percentile,
            spacing,
        )
        grids = {}
        for name, (weight_bits, activation_bits) in bits.items():
            scale, zero_point = 1.0, 0
            if name in ranges and not dynamic:
                scale, zero_point = spacing(*ranges[name], activation_bits)
            grids[name] = Grid(
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                scale=scale,
                zero_point=zero_point,
                dynamic=dynamic,
                symmetric=self.symmetric,
            )
        return grids

    def _round_weights_(self, network: Network, images: Sequence[Tensor], bits: Bits) -> None:
        """Clip weights and put them on their grids, where that is more than rounding them."""
        plain = {
            name: two[0]
            for name, two in bits.items()
            if two[0] != FLOAT and holds_plain_weight(network.body.get_submodule(name))
        }
        if self.calibration_method == "mse":
            for name, width in plain.items():
                weight = network.body.get_submodule(name)._parameters["weight"]
                assert weight is not None
                with torch.no_grad():
                    weight.copy_(mse_clip_weight(weight, width))
        if self.rounding == "adaptive":
            round_adaptively_(network, plain, images)


def parse_layer_bits(texts: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return bits of weights and inputs by layer, of texts such as "NAME=4" and "NAME=4/8"."""
    bits = {}
    for text in texts:
        name, mark, widths = text.rpartition("=")
        parts = widths.split("/")
        if not name or not mark or len(parts) > 2 or not all(part.isdecimal() for part in parts):
            raise ValueError(f"layer_bits must be as NAME=4 or NAME=4/8, got '{text}'")
        own = int(parts[0]), int(parts[-1])
        for width in own:
            _check_bits(f"layer_bits of '{name}'", width, (FLOAT,))
        bits[name] = own
    return bits


def _check_bits(name: str, bits: int, free: tuple[int, ...]) -> None:
    if bits not in free and not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"{name} must be 2 to 8, or 32 for no quantization, got {bits}")
