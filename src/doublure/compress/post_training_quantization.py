"""Post-training quantization: weights and layer inputs on grids, ranges from calibration images.

A layer's input range [a, b] includes 0 and gives s = (b - a) / (2^bits - 1), z = round(-a / s). It
is the observed range ("minmax"), the range of a share of the values ("percentile"), or the range
with the smallest squared rounding error on a histogram of the values ("mse", which also clips the
weights). Bias correction (Nagel et al., arXiv:1906.04721, sec. 4.2) moves each output channel by
E[W x] - E[W_q x_q] over the calibration images: it is added to the layer's bias, or subtracted from
the running mean of the BatchNorm that follows. The first and the last layer can have more bits.

Differs from the paper: the paper is about the choice of calibration images, and fixes no quantizer.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of
from doublure.core.protocols import Batch
from doublure.nets.network import Network
from doublure.nets.quantized import (
    FLOAT,
    Grid,
    can_be_quantized,
    is_quantized,
    quantize_,
    record_of,
    weight_scales,
)

CARD = Card(
    paper="Haroush, Hubara, Hoffer, Soudry: The Knowledge Within, arXiv:1912.01274",
    needs=("weights",),
)

CalibrationMethod = Literal["minmax", "percentile", "mse"]
_BINS = 2048
# Ranges that "mse" tries, relative to the observed range; below 0.2 the clipping error dominates.
_SHARES = tuple(k / 100 for k in range(20, 101))
_FEWEST_BITS, _MOST_BITS = 2, 8


def affine(low: float, high: float, bits: int) -> tuple[float, int]:
    """Return scale and zero_point of a range, which is extended to include 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return 1.0, 0
    # The kernels compute in float32: round the scale in the same way.
    scale = torch.tensor((high - low) / (2**bits - 1)).item()
    if scale == 0.0:
        return 1.0, 0
    return scale, min(max(round(-low / scale), 0), 2**bits - 1)


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


def percentile_range(histogram: Histogram, percentile: float) -> tuple[float, float]:
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


def mse_range(histogram: Histogram, bits: int) -> tuple[float, float]:
    """Return the fraction of the observed range with the smallest squared rounding error."""
    centres, counts = histogram.centres, histogram.counts.double()
    ranges = [(share * histogram.low, share * histogram.high) for share in _SHARES]

    def error(ends: tuple[float, float]) -> float:
        scale, zero_point = affine(ends[0], ends[1], bits)
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


@dataclass(frozen=True, kw_only=True)
class PostTrainingQuantization:
    """Transform: quantization, by default to 8 bits with the observed ranges.

    Args:
        weight_bits: bit width of the weights, 2 to 8; 32 does not quantize them.
        activation_bits: bit width of the layers' inputs, 2 to 8; 32 does not quantize them.
        first_last_bits: minimum bit width of weights and inputs in the first and the last layer; 0
            sets no minimum.
        calibration_method: how ranges are computed: "minmax", "percentile" or "mse".
        percentile: share of the values inside the range, in percent; only for "percentile".
        correct_bias: correct the mean of each output channel.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    first_last_bits: int = 8
    calibration_method: CalibrationMethod = "minmax"
    percentile: float = 99.99
    correct_bias: bool = False

    def __post_init__(self) -> None:
        one_of("calibration_method", self.calibration_method, get_args(CalibrationMethod))
        for name in ("weight_bits", "activation_bits", "first_last_bits"):
            bits = getattr(self, name)
            free = (FLOAT, 0) if name == "first_last_bits" else (FLOAT,)
            if bits not in free and not _FEWEST_BITS <= bits <= _MOST_BITS:
                raise ValueError(f"{name} must be 2 to 8, or 32 for no quantization, got {bits}")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be in (50, 100], got {self.percentile}")

    def __call__(
        self, model: nn.Module, batches: Iterable[Batch] | None, rng: torch.Generator
    ) -> Network:
        """Return the quantized `model`, with ranges computed on the images of `batches`."""
        if not isinstance(model, Network):
            raise TypeError(f"quantization needs a Network, got {type(model).__name__}")
        if is_quantized(model):
            raise ValueError("the network is already quantized; start from the float network")
        if self.weight_bits == self.activation_bits == FLOAT:
            raise ValueError("weight_bits and activation_bits are both 32: nothing to quantize")
        images = [batch.images for batch in batches or ()]
        if not images:
            raise ValueError("quantization needs calibration images, got none")
        quantized = copy.deepcopy(model).eval()
        names = called_layers(quantized, images[0][:1])
        bits = self._bits(names)
        ranges = self._ranges(quantized, images, {name: two[1] for name, two in bits.items()})
        grids = {}
        for name, (weight_bits, activation_bits) in bits.items():
            scale, zero_point = 1.0, 0
            if activation_bits != FLOAT:
                scale, zero_point = affine(*ranges[name], activation_bits)
            grids[name] = Grid(
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                scale=scale,
                zero_point=zero_point,
            )
            layer = quantized.body.get_submodule(name)
            if self.calibration_method == "mse" and weight_bits != FLOAT:
                with torch.no_grad():
                    layer.weight.copy_(mse_clip_weight(layer.weight, weight_bits))  # type: ignore[operator, arg-type]  # a Conv2d or Linear
        quantize_(quantized.body, grids)
        if self.correct_bias:
            correct_bias_(model, quantized, names, torch.cat(images))
        quantized.plan = (*model.plan, record_of(quantized.body))
        return quantized.train(model.training)

    def _bits(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        minimum = self.first_last_bits
        ends = {names[0], names[-1]}
        inner = (self.weight_bits, self.activation_bits)
        return {
            name: (max(inner[0], minimum), max(inner[1], minimum)) if name in ends else inner
            for name in names
        }

    def _ranges(
        self, network: Network, images: Sequence[Tensor], bits: Mapping[str, int]
    ) -> dict[str, tuple[float, float]]:
        observed = observed_ranges(network, list(bits), images)
        if self.calibration_method == "minmax":
            return observed
        histograms = input_histograms(network, observed, images)
        if self.calibration_method == "percentile":
            return {
                name: percentile_range(histograms[name], self.percentile) for name in histograms
            }
        return {
            name: mse_range(histogram, bits[name]) if bits[name] != FLOAT else observed[name]
            for name, histogram in histograms.items()
        }


def called_layers(network: Network, images: Tensor) -> tuple[str, ...]:
    """Return the layers that can be quantized, in the order in which they are first called."""
    called: dict[str, None] = {}
    _watch(network, None, [images], lambda name, _: called.setdefault(name))
    if not called:
        raise ValueError(
            "nothing to quantize: the network calls neither a plain Conv2d nor a plain Linear"
        )
    return tuple(called)


def observed_ranges(
    network: Network, names: Sequence[str], images: Iterable[Tensor]
) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest input of each named layer."""
    seen: dict[str, tuple[float, float]] = {}

    def note(name: str, x: Tensor) -> None:
        low, high = (value.item() for value in x.aminmax())
        old = seen.get(name, (low, high))
        seen[name] = min(low, old[0]), max(high, old[1])

    _watch(network, names, images, note)
    return seen


def input_histograms(
    network: Network, ranges: Mapping[str, tuple[float, float]], images: Iterable[Tensor]
) -> dict[str, Histogram]:
    """Return the histogram of each layer's inputs over the given range."""
    counts: dict[str, Tensor] = {}

    def note(name: str, x: Tensor) -> None:
        low, high = ranges[name]
        now = torch.histc(x.float().cpu(), _BINS, low, high).long()
        counts[name] = counts[name] + now if name in counts else now

    _watch(network, tuple(ranges), images, note)
    return {
        name: Histogram(low=ranges[name][0], high=ranges[name][1], counts=bins)
        for name, bins in counts.items()
    }


def correct_bias_(
    network: Network, quantized: Network, names: Sequence[str], images: Tensor
) -> None:
    """Move the output channels of each layer of `quantized` to their means in `network`.

    A single forward pass corrects the layers in order: the input of each layer already has the
    corrections of the layers before it.
    """
    float_means: dict[str, Tensor] = {}
    layers = {name: quantized.body.get_submodule(name) for name in names}
    followers = _following_norms(quantized, layers, images[:1])

    def note(name: str, output: Tensor) -> Tensor | None:
        float_means[name] = _channel_means(output)
        return None

    def correct(name: str, output: Tensor) -> Tensor | None:
        error = float_means[name] - _channel_means(output)
        layer, follower = layers[name], followers.get(name)
        if follower is not None:
            # The BatchNorm subtracts its running mean: a lower mean raises its output.
            follower.running_mean.sub_(error)  # type: ignore[union-attr]  # it has statistics
            return None
        bias = getattr(layer, "bias", None)
        if bias is None:
            return None
        bias.add_(error)
        return output + error.view(1, -1, *[1] * (output.dim() - 2))

    with torch.no_grad():
        _watch_outputs(network, names, images, note)
        _watch_outputs(quantized, names, images, correct)


def _channel_means(output: Tensor) -> Tensor:
    return output.transpose(0, 1).flatten(1).mean(1)


def _following_norms(
    network: Network, layers: Mapping[str, nn.Module], images: Tensor
) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return the BatchNorm whose input is the output tensor of a layer, for layers with one."""
    layer_by_output: dict[int, str] = {}
    kept: list[Tensor] = []  # keeps tensors alive: the id of a freed tensor can be reused
    norms: dict[str, nn.modules.batchnorm._BatchNorm] = {}

    def note(name: str, output: Tensor) -> None:
        layer_by_output[id(output)] = name
        kept.append(output)

    def look(layer: nn.modules.batchnorm._BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        name = layer_by_output.get(id(inputs[0]))
        if name is not None and layer.running_mean is not None:
            norms[name] = layer

    handles = [
        layer.register_forward_pre_hook(look)
        for layer in network.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    try:
        with torch.no_grad():
            _watch_outputs(network, tuple(layers), images, note)
    finally:
        for handle in handles:
            handle.remove()
    return norms


def _watch(
    network: Network,
    names: Sequence[str] | None,
    images: Iterable[Tensor],
    note: Callable[[str, Tensor], object],
) -> None:
    """Call `note` with the inputs of the named layers, or of all that can be quantized."""
    layers = dict(network.body.named_modules())
    if names is None:
        names = [name for name, layer in layers.items() if can_be_quantized(layer)]

    def hook_of(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            note(name, inputs[0].detach())

        return hook

    handles = [layers[name].register_forward_pre_hook(hook_of(name)) for name in names]
    try:
        with torch.no_grad():
            for part in images:
                network(part)
    finally:
        for handle in handles:
            handle.remove()


def _watch_outputs(
    network: Network,
    names: Sequence[str],
    images: Tensor,
    note: Callable[[str, Tensor], Tensor | None],
) -> None:
    """Call `note` with the outputs of the named layers; a tensor it returns replaces the output."""

    def hook_of(name: str) -> Callable[..., Tensor | None]:
        def hook(layer: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
            return note(name, output)

        return hook

    handles = [
        network.body.get_submodule(name).register_forward_hook(hook_of(name)) for name in names
    ]
    was_training = network.training
    try:
        network.eval()(images)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
