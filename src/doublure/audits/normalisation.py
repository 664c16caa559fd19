"""The normalisation of a network's training data, estimated from its first BatchNorm.

The BatchNorm after a first convolution W stores, for every filter o, the mean and variance of the
output over the training images. With K_oc the sum of kernel (o, c), m_c the mean and s_c the
standard deviation of the normalised input, C the correlation of colours, rho of distant pixels:

    mean_o = sum_c K_oc m_c                                                                      (1)
    var_o  = sum_{c,d} sum_{p,q} W_ocp W_odq s_c s_d C_cd rho(|p - q|)                           (2)

(1) holds for any images whose mean is the same everywhere; least squares gives m and its
covariance. (2) needs a model of images: photographs, the same at every scale, rho(r) = exp(-r / L)
with L a share of the image. What the network saw is then *read through* a candidate normalisation:
the training images, in [0, 1], had the mean m * std + mean and a standard deviation from (2). The
likelihood of a candidate is that of those values for photographs.

What it cannot tell: CIFAR's constants from ImageNet's, or any two normalisations that differ by
less than sets of photographs do (a factor of two in std is the edge: [-1, 1] may pass for
CIFAR's); RGB from BGR, since the mean colours of photographs differ by 0.06 from red to blue, and
sets of photographs by as much from one another; anything about images that are not colour
photographs. Padding random crops with black, as usual on CIFAR, lowers the mean by an eighth; that
is within the spread allowed for here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Mean of photographs in [0, 1], RGB: between ImageNet's (0.485, 0.456, 0.406) and CIFAR-10's
# (0.491, 0.482, 0.447). Sets differ in brightness (CamVid's mean is 0.31) and in colour (that of
# CIFAR-10's aeroplanes is (0.53, 0.56, 0.59), of its frogs (0.47, 0.44, 0.34)).
_MEAN = (0.49, 0.47, 0.43)
_BRIGHTNESS_SPREAD = 0.15
_COLOUR_SPREAD = 0.07
# Standard deviation of pixels: CIFAR-10 0.25, CamVid 0.28, SVHN 0.20. Low contrast is common;
# values in [0, 1] cannot reach beyond 0.5. Spreads are of the natural logarithm.
_STD = 0.26
_STD_SPREAD_BELOW = 0.3
_STD_SPREAD_ABOVE = 0.2
# Error of (2) per filter on two public networks, as a logarithm.
_MODEL_ERROR = 0.15
# Correlations of neighbouring colours and of red with blue: CIFAR-10 0.92, 0.80; CamVid 0.99, 0.98.
_NEAR_COLOURS = 0.93
_FAR_COLOURS = 0.82
# L as a share of the shorter side: CIFAR-10 0.30, CamVid 0.32, single photographs 0.1 to 0.2.
_CORRELATION_LENGTH = 0.3

# Filters that weight decay has almost switched off carry rounding errors, not images.
_DEAD = 1e-3
_FEWEST_FILTERS = 6
# Keeps (1) solvable if every kernel sums to zero; the covariance then shows that m is unknown.
_RIDGE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation of a normalisation of RGB images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


CANDIDATES: Mapping[str, Normalisation] = {
    "unit": Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3),
    "bytes": Normalisation(mean=(0.0,) * 3, std=(1 / 255,) * 3),
    "symmetric": Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3),
    "imagenet": Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "cifar10": Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "centred_bytes": Normalisation(mean=(0.485, 0.456, 0.406), std=(1 / 255,) * 3),
}


@dataclass(frozen=True, kw_only=True)
class FirstLayer:
    """A first convolution and the statistics of the BatchNorm after it.

    Args:
        kernels: the convolution's weights.
        kernel_sums: K, averaged over positions so that zero padding counts.
        means: running means without the convolution's bias.
        variances: running variances.
        correlation_length: L, in taps of the kernel.
    """

    kernels: Float[Tensor, "filters channels height width"]
    kernel_sums: Float[Tensor, "filters channels"]
    means: Float[Tensor, " filters"]
    variances: Float[Tensor, " filters"]
    correlation_length: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Statistics of the training images in [0, 1] under a normalisation.

    Args:
        misfit: their distance from photographs, in standard deviations.
    """

    name: str
    normalisation: Normalisation
    mean: tuple[float, ...]
    std: float
    misfit: float

    @property
    def log_likelihood(self) -> float:
        """The log likelihood, up to a common constant."""
        return -(self.misfit**2) / 2


def correlation_length(size: tuple[int, int]) -> float:
    """Return the distance, in pixels, at which the correlation of photographs falls to 1/e."""
    return _CORRELATION_LENGTH * min(size)


def input_mean(
    kernel_sums: Float[Tensor, "filters channels"],
    means: Float[Tensor, " filters"],
    variances: Float[Tensor, " filters"],
) -> tuple[Float[Tensor, " channels"], Float[Tensor, "channels channels"]]:
    """Return the solution m of (1), and the covariance of its error.

    Filters have weights inverse to their variance, since their errors grow with it.
    """
    weights = variances.clamp(min=_DEAD * variances.max().item()).rsqrt()
    design, target = kernel_sums * weights[:, None], means * weights
    gram = design.T @ design
    ridge = _RIDGE * gram.trace() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.inv(gram + ridge)
    mean = inverse @ design.T @ target
    residual = target - design @ mean
    noise = residual.square().sum() / (len(target) - len(mean))
    return mean, noise * inverse


def photograph_variances(
    kernels: Float[Tensor, "filters channels height width"],
    std: Float[Tensor, " channels"],
    length: float,
) -> Float[Tensor, " filters"]:
    """Return (2), the variance of each filter's output on photographs divided by `std`."""
    height, width = kernels.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    features = torch.stack((rows.flatten(), columns.flatten()), dim=1).to(kernels)
    correlation = torch.exp(-torch.cdist(features, features) / length)
    colours = kernels.new_tensor(
        [
            [1.0, _NEAR_COLOURS, _FAR_COLOURS],
            [_NEAR_COLOURS, 1.0, _NEAR_COLOURS],
            [_FAR_COLOURS, _NEAR_COLOURS, 1.0],
        ]
    )
    scaled = kernels.flatten(2) * (_STD / std)[:, None]
    return torch.einsum("ocp,odq,cd,pq->o", scaled, scaled, colours, correlation)


def read_through(first: FirstLayer, name: str, normalisation: Normalisation) -> Reading:
    """Return the statistics of the training images under `normalisation`."""
    shift = first.kernels.new_tensor(normalisation.mean)
    scale = first.kernels.new_tensor(normalisation.std)
    seen, covariance = input_mean(first.kernel_sums, first.means, first.variances)
    mean = seen * scale + shift

    expected = photograph_variances(first.kernels, scale, first.correlation_length)
    live = first.variances > _DEAD * first.variances.max()
    log_ratio = 0.5 * (first.variances / expected)[live].log().median().item()

    error = scale[:, None] * covariance * scale
    squared = _mean_misfit(mean, error) + _std_misfit(log_ratio)
    return Reading(
        name=name,
        normalisation=normalisation,
        mean=tuple(mean.tolist()),
        std=_STD * math.exp(log_ratio),
        misfit=math.sqrt(squared),
    )


def rank(first: FirstLayer, stated: Normalisation) -> tuple[Reading, Sequence[Reading]]:
    """Return the reading of the stated normalisation, and those of all candidates, best first."""
    readings = [read_through(first, name, known) for name, known in CANDIDATES.items()]
    return read_through(first, "stated", stated), sorted(readings, key=lambda r: r.misfit)


def enough_filters(first: FirstLayer) -> bool:
    """Return whether there are enough filters to solve (1) and estimate its error."""
    live = first.variances > _DEAD * first.variances.max()
    return int(live.sum()) >= _FEWEST_FILTERS


def _mean_misfit(mean: Tensor, error: Tensor) -> float:
    distance = mean - mean.new_tensor(_MEAN)
    channels = len(mean)
    spread = _BRIGHTNESS_SPREAD**2 + _COLOUR_SPREAD**2 * torch.eye(channels).to(mean)
    return float(distance @ torch.linalg.solve(spread + error, distance))


def _std_misfit(log_ratio: float) -> float:
    spread = _STD_SPREAD_ABOVE if log_ratio > 0 else _STD_SPREAD_BELOW
    return log_ratio**2 / (spread**2 + _MODEL_ERROR**2)
