"""Ranges of layer inputs, from calibration images.

The observed range ("minmax"), the range of a share of the values ("percentile"), or the part of
the observed range with the smallest squared rounding error on a histogram of the values ("mse").
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.compress.layer_calls import watch_inputs
from doublure.nets.network import Network
from doublure.nets.rounding import weight_scales

CalibrationMethod = Literal["minmax", "percentile", "mse"]
Range = tuple[float, float]
# From the ends of a range and the bits to scale and zero_point.
Spacing = Callable[[float, float, int], tuple[float, int]]
_BINS = 2048
# Ranges that "mse" tries, relative to the observed range; below 0.2 the clipping error dominates.
_SHARES = tuple(k / 100 for k in range(20, 101))


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Histogram of a layer's inputs between `low` and `high`, in bins of equal width."""

    low: float
    high: float
    counts: Tensor

    @property
    def centres(self) -> Float[Tensor, " bins"]:
        """The middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (torch.arange(len(self.counts), dtype=torch.float64) + 0.5)


def percentile_range(histogram: Histogram, percentile: float) -> Range:
    """Return the range that excludes the same share of values at both ends.

    Args:
        percentile: share of the values inside the range, in percent.
    """
    shares = histogram.counts.double().cumsum(0) / histogram.counts.sum()
    outside = (1 - percentile / 100) / 2
    width = (histogram.high - histogram.low) / len(histogram.counts)
    first = int((shares <= outside).sum())
    last = int((shares < 1 - outside).sum())
    low, high = histogram.low + width * first, histogram.low + width * (last + 1)
    # If no value is below 0, as after a ReLU, there is no lower tail to exclude.
    return (min(histogram.low, 0.0) if histogram.low >= 0 else low), high


def squared_error(
    values: Float[Tensor, " values"], counts: Tensor, scale: float, zero_point: int, bits: int
) -> float:
    """Return the mean squared error of rounding and clipping values, weighted by `counts`."""
    rounded = ((values / scale).round() + zero_point).clamp(0, 2**bits - 1) - zero_point
    error = (rounded * scale - values).square() * counts
    return float(error.sum() / counts.sum())


def mse_range(histogram: Histogram, bits: int, spacing: Spacing) -> Range:
    """Return the fraction of the observed range with the smallest squared rounding error."""
    centres, counts = histogram.centres, histogram.counts.double()
    ranges = [(share * histogram.low, share * histogram.high) for share in _SHARES]

    def error(ends: Range) -> float:
        scale, zero_point = spacing(ends[0], ends[1], bits)
        return squared_error(centres, counts, scale, zero_point, bits)

    return min(ranges, key=error)


def mse_clip_weight(weight: Float[Tensor, "outputs inputs *kernel"], bits: int) -> Tensor:
    """Return the weights clipped, per output channel, to the range of smallest rounding error."""
    flat, highest = weight.detach().flatten(1), 2 ** (bits - 1) - 1
    full = weight_scales(weight, bits)
    best, error = full, torch.full_like(full, torch.inf)
    for share in _SHARES:
        scales = full * share
        integers = (flat / scales[:, None]).round().clamp(-highest, highest)
        trial = (integers * scales[:, None] - flat).square().sum(1)
        best, error = torch.where(trial < error, scales, best), torch.minimum(trial, error)
    reach = (best * highest).view(-1, *[1] * (weight.dim() - 1))
    return weight.detach().clamp(-reach, reach)


def observed_ranges(
    network: Network, names: Sequence[str], images: Iterable[Tensor]
) -> dict[str, Range]:
    """Return the smallest and the largest input of each named layer.

    Raises:
        ValueError: a layer's inputs are not finite; the message names it.
    """
    seen: dict[str, Range] = {}

    def note(name: str, x: Tensor) -> None:
        low, high = (value.item() for value in x.aminmax())
        if not abs(low) + abs(high) < torch.inf:
            raise ValueError(
                f"the inputs of '{name}' are not finite on the calibration images; "
                "look at the network with `doublure inspect`"
            )
        old = seen.get(name, (low, high))
        seen[name] = min(low, old[0]), max(high, old[1])

    watch_inputs(network, names, images, note)
    return seen


def input_histograms(
    network: Network, ranges: Mapping[str, Range], images: Iterable[Tensor]
) -> dict[str, Histogram]:
    """Return the histogram of each layer's inputs over the given range."""
    counts: dict[str, Tensor] = {}

    def note(name: str, x: Tensor) -> None:
        low, high = ranges[name]
        now = torch.histc(x.float().cpu(), _BINS, low, high).long()
        counts[name] = counts[name] + now if name in counts else now

    watch_inputs(network, tuple(ranges), images, note)
    return {
        name: Histogram(low=ranges[name][0], high=ranges[name][1], counts=bins)
        for name, bins in counts.items()
    }


def calibrated_ranges(
    network: Network,
    images: Sequence[Tensor],
    bits: Mapping[str, int],
    method: CalibrationMethod,
    percentile: float,
    spacing: Spacing,
) -> dict[str, Range]:
    """Return the range of the inputs of each layer of `bits`, by its calibration method."""
    observed = observed_ranges(network, list(bits), images)
    if method == "minmax":
        return observed
    histograms = input_histograms(network, observed, images)
    if method == "percentile":
        return {name: percentile_range(histograms[name], percentile) for name in histograms}
    return {
        name: mse_range(histogram, bits[name], spacing) for name, histogram in histograms.items()
    }
