"""How much of a network rounds: how many layers, which share of its weights, and what does not.

Weights are parameters of two or more dimensions; biases, and the scales of normalisation, are none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from doublure.nets.quantized import Quantized, can_be_quantized
from doublure.nets.rounding import FLOAT

# A warning tells of all that is passed over but weights this small a share of all.
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """A layer whose weights are not rounded.

    Args:
        kind: its class.
        weights: how many.
        why: in a few words.
    """

    name: str
    kind: str
    weights: int
    why: str


@dataclass(frozen=True, kw_only=True)
class RoundedShare:
    """How much of a network rounds.

    Args:
        layers: how many round weights.
        weights: how many they hold.
        all_weights: how many the network holds.
        mean_weight_bits: over all weights of the network; 32 where nothing is rounded.
        input_layers: how many layers round their inputs.
        layer_bits: bits of weights and inputs, by layer.
    """

    layers: int
    weights: int
    all_weights: int
    mean_weight_bits: float
    input_layers: int
    layer_bits: Mapping[str, tuple[int, int]]
    passed_over: tuple[PassedOver, ...]

    @property
    def share(self) -> float:
        """Of all weights, those that are rounded."""
        return self.weights / self.all_weights if self.all_weights else 0.0

    @property
    def summary(self) -> str:
        """One line for a person."""
        layers = f"{self.layers} layer{'s' * (self.layers != 1)}"
        return (
            f"{layers}, {self.share:.1%} of {self.all_weights:,} weights, "
            f"{self.mean_weight_bits:.2f} bits a weight; inputs of {self.input_layers}"
        )

    @property
    def warning(self) -> str:
        """What is not rounded, by name; "" where that is next to nothing."""
        left = [p for p in self.passed_over if p.weights > _NEGLIGIBLE * self.all_weights]
        if not left:
            return ""
        shown = ", ".join(f"{p.name} ({p.kind}, {p.weights:,}: {p.why})" for p in left[:4])
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        return f"{1 - self.share:.1%} of the weights are not rounded: {shown}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON takes it."""
        return {
            "layers": self.layers,
            "weights": self.weights,
            "all_weights": self.all_weights,
            "share": self.share,
            "mean_weight_bits": self.mean_weight_bits,
            "input_layers": self.input_layers,
            "layer_bits": {name: list(two) for name, two in self.layer_bits.items()},
            "passed_over": [vars(part) for part in self.passed_over],
            "simulated": True,
        }


def rounded_share(body: nn.Module) -> RoundedShare:
    """Return how much of an architecture rounds."""
    counts: dict[str, int] = {}
    bits: dict[str, tuple[int, int]] = {}
    passed: list[PassedOver] = []
    whole = weighed = 0
    seen: set[int] = set()
    for name, layer in body.named_modules():
        # Of a parametrised layer the parameters lie in modules inside.
        inside = layer.parameters(recurse=nn.utils.parametrize.is_parametrized(layer))
        own = [p for p in inside if p.dim() > 1 and id(p) not in seen]
        seen |= {id(p) for p in own}
        count = sum(p.numel() for p in own)
        rounds = isinstance(layer, Quantized)
        if rounds:
            bits[name] = (layer.grid.weight_bits, layer.grid.activation_bits)
        if not count:
            continue
        width = bits[name][0] if rounds else FLOAT
        whole += count
        weighed += count * width
        if width != FLOAT:
            counts[name] = count
            continue
        if rounds:
            why = "asked to keep 32 bits"
        elif can_be_quantized(layer):
            why = "never called on an image"
        else:
            why = "no product of inputs and weights that is known"
        kind = type(layer).__name__.removeprefix("Quantized")
        passed.append(PassedOver(name=name or "(network)", kind=kind, weights=count, why=why))
    return RoundedShare(
        layers=len(counts),
        weights=sum(counts.values()),
        all_weights=whole,
        mean_weight_bits=weighed / whole if whole else float(FLOAT),
        input_layers=sum(two[1] != FLOAT for two in bits.values()),
        layer_bits=bits,
        passed_over=tuple(passed),
    )
