"""Post-training quantization: weights and layer inputs on grids, ranges from calibration images.

A layer's input range [a, b] holds 0 and gives s = (b - a) / (2^bits - 1), z = round(-a / s). It is
the range seen ("minmax"), the range of a share of the values ("percentile"), or the one that
rounds a histogram of them with the least squared error ("mse", which also clips the weights).
Bias correction (Nagel et al., arXiv:1906.04721, sec. 4.2) moves each output channel by
E[W x] - E[W_q x_q] over the calibration images: into the layer's bias, or out of the running mean
of the BatchNorm behind it. The first and the last layer keep more bits, where asked.

Differs from the paper: it leaves the quantizer open; which images calibrate is its subject.
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
# Ranges tried by "mse", as shares of the one seen; below a fifth the clipping error has won.
_SHARES = tuple(k / 100 for k in range(20, 101))
_FEWEST_BITS, _MOST_BITS = 2, 8


def affine(low: float, high: float, bits: int) -> tuple[float, int]:
    """Return scale and zero_point of a range, which is stretched to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return 1.0, 0
    # The kernels compute in float32: the scale is kept as they will see it.
    scale = torch.tensor((high - low) / (2**bits - 1)).item()
    if scale == 0.0:
        return 1.0, 0
    return scale, min(max(round(-low / scale), 0), 2**bits - 1)


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How often a layer's inputs fall between `low` and `high`, in bins of equal width."""

    low: float
    high: float
    counts: Tensor

    @property
    def centres(self) -> Float[Tensor, " bins"]:
        """The middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (torch.arange(len(self.counts), dtype=torch.float64) + 0.5)


def percentile_range(histogram: Histogram, percentile: float) -> tuple[float, float]:
    """Return the range that leaves out the same share of the values at either end.

    Args:
        percentile: of the values that stay inside, in percent.
    """
    shares = histogram.counts.double().cumsum(0) / histogram.counts.sum()
    outside = (1 - percentile / 100) / 2
    width = (histogram.high - histogram.low) / len(histogram.counts)
    first = int((shares <= outside).sum())
    last = int((shares < 1 - outside).sum())
    low, high = histogram.low + width * first, histogram.low + width * (last + 1)
    # An end at which nothing is below 0 (a ReLU's) is no tail.
    return (min(histogram.low, 0.0) if histogram.low >= 0 else low), high


def squared_error(
    values: Float[Tensor, " values"], counts: Tensor, scale: float, zero_point: int, bits: int
) -> float:
    """Return the mean squared error of rounding and clipping values that come `counts` times."""
    rounded = ((values / scale).round() + zero_point).clamp(0, 2**bits - 1) - zero_point
    error = (rounded * scale - values).square() * counts
    return float(error.sum() / counts.sum())


def mse_range(histogram: Histogram, bits: int) -> tuple[float, float]:
    """Return the range among shares of the one seen that rounds with the least squared error."""
    centres, counts = histogram.centres, histogram.counts.double()
    ranges = [(share * histogram.low, share * histogram.high) for share in _SHARES]

    def error(ends: tuple[float, float]) -> float:
        scale, zero_point = affine(ends[0], ends[1], bits)
        return squared_error(centres, counts, scale, zero_point, bits)

    return min(ranges, key=error)


def mse_clip_weight(weight: Float[Tensor, "outputs inputs *kernel"], bits: int) -> Tensor:
    """Return the weights clipped, per output channel, where rounding them costs least."""
    flat, highest = weight.detach().flatten(1), 2 ** (bits - 1) - 1
    full = weight_scales(weight, bits)
    best, error = full, torch.full_like(full, torch.inf)
    for share in _SHARES:
        scales = full * share
        integers = (flat / scales[:, None]).round().clamp(-highest, highest)
        now = (integers * scales[:, None] - flat).square().sum(1)
        best, error = torch.where(now < error, scales, best), torch.minimum(now, error)
    reach = (best * highest).view(-1, *[1] * (weight.dim() - 1))
    return weight.detach().clamp(-reach, reach)


@dataclass(frozen=True, kw_only=True)
class PostTrainingQuantization:
    """Transform: eight bits, from the ranges seen; all else is a choice.

    Args:
        weight_bits: 2 to 8, or 32 to leave weights as they are.
        activation_bits: of the layers' inputs, likewise.
        first_last_bits: of weights and inputs of the first and the last layer at least; 0 treats
            them as the others.
        calibration_method: how ranges are taken: "minmax", "percentile" or "mse".
        percentile: share of the values that stay inside, in percent; read by "percentile" only.
        correct_bias: move each output channel by the error of its mean.
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
                raise ValueError(f"{name} must lie in 2 to 8, or be 32 for none, got {bits}")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must lie in (50, 100], got {self.percentile}")

    def __call__(
        self, model: nn.Module, batches: Iterable[Batch] | None, rng: torch.Generator
    ) -> Network:
        """Return `model` on grids, its ranges taken from the images of `batches`."""
        if not isinstance(model, Network):
            raise TypeError(f"quantization needs a Network, got {type(model).__name__}")
        if is_quantized(model):
            raise ValueError("the network is quantized already; start from the one it was made of")
        if self.weight_bits == self.activation_bits == FLOAT:
            raise ValueError("weight_bits and activation_bits are both 32: nothing to quantize")
        images = [batch.images for batch in batches or ()]
        if not images:
            raise ValueError("quantization needs calibration images, got none")
        made = copy.deepcopy(model).eval()
        names = layers_called(made, images[0][:1])
        bits = self._bits(names)
        ranges = self._ranges(made, images, {name: two[1] for name, two in bits.items()})
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
            layer = made.body.get_submodule(name)
            if self.calibration_method == "mse" and weight_bits != FLOAT:
                with torch.no_grad():
                    layer.weight.copy_(mse_clip_weight(layer.weight, weight_bits))  # type: ignore[operator, arg-type]  # a Conv2d or Linear
        quantize_(made.body, grids)
        if self.correct_bias:
            correct_bias_(model, made, names, torch.cat(images))
        made.plan = (*model.plan, record_of(made.body))
        return made.train(model.training)

    def _bits(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        least = self.first_last_bits
        ends = {names[0], names[-1]}
        inner = (self.weight_bits, self.activation_bits)
        return {
            name: (max(inner[0], least), max(inner[1], least)) if name in ends else inner
            for name in names
        }

    def _ranges(
        self, network: Network, images: Sequence[Tensor], bits: Mapping[str, int]
    ) -> dict[str, tuple[float, float]]:
        seen = ranges_seen(network, list(bits), images)
        if self.calibration_method == "minmax":
            return seen
        histograms = histograms_of(network, seen, images)
        if self.calibration_method == "percentile":
            return {
                name: percentile_range(histograms[name], self.percentile) for name in histograms
            }
        return {
            name: mse_range(found, bits[name]) if bits[name] != FLOAT else seen[name]
            for name, found in histograms.items()
        }


def layers_called(network: Network, images: Tensor) -> tuple[str, ...]:
    """Return the layers that can be quantized, in the order in which they are first called."""
    called: dict[str, None] = {}
    _watch(network, None, [images], lambda name, _: called.setdefault(name))
    if not called:
        raise ValueError(
            "nothing to quantize: the network calls neither a plain Conv2d nor a plain Linear"
        )
    return tuple(called)


def ranges_seen(
    network: Network, names: Sequence[str], images: Iterable[Tensor]
) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest input of each layer named."""
    seen: dict[str, tuple[float, float]] = {}

    def note(name: str, x: Tensor) -> None:
        low, high = (value.item() for value in x.aminmax())
        old = seen.get(name, (low, high))
        seen[name] = min(low, old[0]), max(high, old[1])

    _watch(network, names, images, note)
    return seen


def histograms_of(
    network: Network, ranges: Mapping[str, tuple[float, float]], images: Iterable[Tensor]
) -> dict[str, Histogram]:
    """Return how the inputs of each layer are spread over the range given for it."""
    counts: dict[str, Tensor] = {}

    def note(name: str, x: Tensor) -> None:
        low, high = ranges[name]
        now = torch.histc(x.float().cpu(), _BINS, low, high).long()
        counts[name] = counts[name] + now if name in counts else now

    _watch(network, tuple(ranges), images, note)
    return {
        name: Histogram(low=ranges[name][0], high=ranges[name][1], counts=found)
        for name, found in counts.items()
    }


def correct_bias_(
    network: Network, quantized: Network, names: Sequence[str], images: Tensor
) -> None:
    """Move the output channels of each layer of `quantized` to the means they have in `network`.

    One pass over all images at once, layer after layer: what is corrected feeds what comes later.
    """
    wanted: dict[str, Tensor] = {}
    places = {name: quantized.body.get_submodule(name) for name in names}
    followers = _normalisations_behind(quantized, places, images[:1])

    def note(name: str, output: Tensor) -> Tensor | None:
        wanted[name] = _channel_means(output)
        return None

    def correct(name: str, output: Tensor) -> Tensor | None:
        error = wanted[name] - _channel_means(output)
        layer, follower = places[name], followers.get(name)
        if follower is not None:
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


def _normalisations_behind(
    network: Network, layers: Mapping[str, nn.Module], images: Tensor
) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return the BatchNorm whose input is the very output of a layer, for each that has one."""
    made_by: dict[int, str] = {}
    kept: list[Tensor] = []  # an address is only taken again once its tensor is gone
    found: dict[str, nn.modules.batchnorm._BatchNorm] = {}

    def note(name: str, output: Tensor) -> None:
        made_by[id(output)] = name
        kept.append(output)

    def look(layer: nn.modules.batchnorm._BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        name = made_by.get(id(inputs[0]))
        if name is not None and layer.running_mean is not None:
            found[name] = layer

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
    return found


def _watch(
    network: Network,
    names: Sequence[str] | None,
    images: Iterable[Tensor],
    note: Callable[[str, Tensor], object],
) -> None:
    """Tell `note` the inputs of the layers named, or of all that can be quantized."""
    layers = dict(network.body.named_modules())
    if names is None:
        names = [name for name, layer in layers.items() if can_be_quantized(layer)]

    def watching(name: str) -> Callable[..., None]:
        def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            note(name, inputs[0].detach())

        return look

    handles = [layers[name].register_forward_pre_hook(watching(name)) for name in names]
    try:
        with torch.no_grad():
            for some in images:
                network(some)
    finally:
        for handle in handles:
            handle.remove()


def _watch_outputs(
    network: Network,
    names: Sequence[str],
    images: Tensor,
    note: Callable[[str, Tensor], Tensor | None],
) -> None:
    """Tell `note` the outputs of the layers named; what it returns takes their place."""

    def watching(name: str) -> Callable[..., Tensor | None]:
        def look(layer: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
            return note(name, output)

        return look

    handles = [
        network.body.get_submodule(name).register_forward_hook(watching(name)) for name in names
    ]
    was = network.training
    try:
        network.eval()(images)
    finally:
        network.train(was)
        for handle in handles:
            handle.remove()
