"""Mixed precision: bits of each layer, chosen by themselves for a size or a time.

How much each layer minds few bits is measured on the calibration images without labels
(`compress.sensitivity`); then bits are chosen for the least harm within the target
(`compress.choosing_bits`), and the network is quantized with them. Weights and inputs of a layer
have equal bits. Targets:

    "4.5bits"  mean over the weights that are rounded
    "0.3size"  of the bytes of all weights in float32
    "2ms"      predicted: the network's time here, shared out by products, times bits / 32

A time is that of a machine whose speed grows as bits fall; no kernel here runs below 8 bits.

Differs from the paper: harm is the divergence of answers, where HAWQ-V3 takes the Hessian; no
labels, no training.
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.compress.choosing_bits import TRIALS, Search, choose_bits
from doublure.compress.post_training_quantization import (
    FEWEST_BITS,
    MOST_BITS,
    PostTrainingQuantization,
)
from doublure.compress.sensitivity import Sensitivity, measure_sensitivity, one_thread
from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch
from doublure.nets.network import Network
from doublure.nets.rounding import FLOAT

CARD = Card(
    paper="Yao et al.: HAWQ-V3, Dyadic Neural Network Quantization, arXiv:2011.10680",
    needs=("logits", "weights"),
)
_TARGET = re.compile(r"(\d*\.?\d+)(bits|size|ms)")
_TIMED_CALLS = 9


@dataclass(frozen=True, kw_only=True)
class MixedPrecision:
    """Transform: quantization with bits of each layer's own.

    Args:
        quantization: how; its own bits do not count.
        target: what the network may take: "4.5bits", "0.3size" or "2ms".
        search: how bits are chosen: "milp", "greedy", "rl" or "optuna".
        bits: widths to choose from.
        num_images: calibration images that harm is measured on.
        trials: policies that "rl" and "optuna" look at.
    """

    quantization: PostTrainingQuantization = field(
        default_factory=lambda: PostTrainingQuantization(calibration_method="mse")
    )
    target: str = "4.5bits"
    search: Search = "milp"
    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    num_images: int = 128
    trials: int = TRIALS

    def __post_init__(self) -> None:
        one_of("search", self.search, get_args(Search))
        parse_target(self.target)
        positive("num_images", self.num_images)
        positive("trials", self.trials)
        if not self.bits or sorted(set(self.bits)) != list(self.bits):
            raise ValueError(f"bits must grow and not repeat, got {self.bits}")
        if not FEWEST_BITS <= self.bits[0] <= self.bits[-1] <= MOST_BITS:
            raise ValueError(f"bits must be {FEWEST_BITS} to {MOST_BITS}, got {self.bits}")

    def __call__(
        self, model: nn.Module, batches: Iterable[Batch] | None, rng: torch.Generator
    ) -> Network:
        """Return `model` with the bits that were chosen on the images of `batches`."""
        if not isinstance(model, Network):
            raise TypeError(f"mixed precision needs a Network, got {type(model).__name__}")
        shown = list(batches or ())
        if not shown:
            raise ValueError("quantization needs calibration images, got none")
        images = torch.cat([batch.images for batch in shown])[: self.num_images]
        sensitivity = measure_sensitivity(model, images, self.bits, self.quantization)
        seed = int(torch.randint(2**31, (), generator=rng))
        layer_bits = self.choose(model, sensitivity, images[:1], seed)
        return replace(self.quantization, layer_bits=layer_bits)(model, shown, rng)

    def choose(
        self, model: Network, sensitivity: Sensitivity, image: Tensor, seed: int
    ) -> tuple[str, ...]:
        """Return bits by layer, as `PostTrainingQuantization` takes them."""
        cost, budget = costs(model, sensitivity, self.target, image)
        chosen = choose_bits(
            sensitivity.divergence,
            cost,
            budget,
            self.search,
            seed=seed,
            trials=self.trials,
            features=layer_features(sensitivity),
        )
        pairs = zip(sensitivity.layers, chosen, strict=True)
        return tuple(f"{name}={self.bits[place]}" for name, place in pairs)


def parse_target(text: str) -> tuple[float, str]:
    """Return number and unit of a target such as "4.5bits", "0.3size" or "2ms"."""
    parsed = _TARGET.fullmatch(text)
    if parsed is None or float(parsed[1]) <= 0:
        raise ValueError(f"target must be as 4.5bits, 0.3size or 2ms, got '{text}'")
    return float(parsed[1]), parsed[2]


def costs(
    network: Network, sensitivity: Sensitivity, target: str, image: Tensor
) -> tuple[Float[Tensor, "layers bits"], float]:
    """Return what each layer costs at each of the bits, and the budget, in the target's unit."""
    value, unit = parse_target(target)
    bits = torch.tensor(sensitivity.bits, dtype=torch.float64)
    if unit == "ms":
        shares = sensitivity.macs / sensitivity.macs.sum()
        return shares[:, None] * bits * (milliseconds(network, image) / FLOAT), value
    cost = sensitivity.weights[:, None] * bits
    rounded = sensitivity.weights.sum().item()
    if unit == "bits":
        return cost, value * rounded
    whole = sum(p.numel() for p in network.body.parameters() if p.dim() > 1)
    return cost, FLOAT * (value * whole - (whole - rounded))


def milliseconds(network: Network, image: Tensor) -> float:
    """Return the median time of one image, in one thread."""
    times = []
    with torch.inference_mode(), one_thread():
        for _ in range(_TIMED_CALLS):
            began = time.perf_counter()
            network(image)
            times.append(time.perf_counter() - began)
    return 1e3 * sorted(times)[_TIMED_CALLS // 2]


def layer_features(sensitivity: Sensitivity) -> Float[Tensor, "layers features"]:
    """Return weights and products of each layer, and its harm at each width, in [0, 1]."""
    parts: Sequence[Tensor] = (
        sensitivity.weights[:, None].log1p(),
        sensitivity.macs[:, None].log1p(),
        sensitivity.divergence.clamp(min=1e-9).log(),
    )
    table = torch.cat(list(parts), dim=1)
    low, high = table.amin(0), table.amax(0)
    return torch.where(high > low, (table - low) / (high - low), 0.0)
