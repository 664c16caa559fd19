"""What an audit of quantization found, for its page and its JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ByInput:
    """Shares of held-out images that are flipped.

    Args:
        learned: by the policy network.
        constant: by the best single entry.
        oracle: by any entry.
        entries_used: how many entries the network chose.
    """

    learned: float
    constant: float
    oracle: float
    entries_used: int


@dataclass(frozen=True, kw_only=True)
class LayerFinding:
    """One layer.

    Args:
        flips: by bits, of the layer alone.
        divergence: likewise, in nats.
        inflation: largest channel range over the median one.
        safe_bits: fewest bits from which on it flips next to nothing; 32 for none.
    """

    name: str
    flips: Mapping[int, float]
    divergence: Mapping[int, float]
    inflation: float
    kurtosis: float
    safe_bits: int
    vulnerable: bool


@dataclass(frozen=True, kw_only=True)
class QuantizationFinding:
    """What was found; shares are of answers that flip, on images that chose nothing.

    Args:
        uniform: by bits, all layers alike.
        worst: the worst policy's flips, and its bits by layer.
        critical_bits: how many images flip first at each width, going down; 0 for never.
        corrupted: by corruption, flips by the fewest bits everywhere and by the worst policy.
        witnesses: the images that most policies flip, and how many of them do.
        accuracy: of the float network, uniform and worst policies, where there are labels.
    """

    layers: tuple[LayerFinding, ...]
    mean_bits: float
    images: int
    uniform: Mapping[int, float]
    random_mean: float
    random_worst: float
    random_flips: tuple[float, ...]
    greedy: float
    worst: float
    worst_policy: Mapping[str, int]
    by_input: ByInput
    critical_bits: Mapping[int, int]
    corrupted: Mapping[str, tuple[float, float]]
    witnesses: tuple[int, ...]
    witness_flips: tuple[float, ...]
    verdict: Literal["ok", "warn", "fail"]
    summary: str
    repair: str
    accuracy: Mapping[str, float] = field(default_factory=dict)

    @property
    def vulnerable(self) -> tuple[str, ...]:
        """Layers that alone flip as much as alarms, the worst first."""
        worst = sorted(self.layers, key=lambda layer: -max(layer.flips.values()))
        return tuple(layer.name for layer in worst if layer.vulnerable)
