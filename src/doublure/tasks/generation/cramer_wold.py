"""The Cramer-Wold distance of two samples in closed form, and the objectives of LCW.

Project both samples on a random direction, smooth each projection by a Gaussian of variance g, and
take the squared L2 distance of the two densities; its mean over all directions of R^D is

    d2(X, Y) = [mean k(x, x') + mean k(y, y') - 2 mean k(x, y)] / (2 sqrt(pi g)),
    k(x, y) = phi(|x - y|^2 / (4 g)),   phi(s) = 1F1(1/2; D/2; -s) = E exp(-s t^2),

t the first coordinate of a random unit vector. phi(s) ~ (1 + 4 s / (2 D - 3))^(-1/2) for large D.
With y ~ N(0, I) the means over y are known, and no samples are needed:

    d2(X, N) = [(1 + g)^(-1/2) + g^(-1/2) mean phi(|x - x'|^2 / (4 g))
                - 2 (g + 1/2)^(-1/2) mean phi(|x|^2 / (4 g + 2))] / (2 sqrt(pi)).

Auto-encoder:       sum |x - Dec(Enc(x))|^2, mean over images
                    + lambda log d2(Enc(X), N) for the Cramer-Wold auto-encoder
Latent generator:   d2(M(noise), Enc(X)), the auto-encoder frozen

Knop, Mazur, Spurek, Tabor, Podolak: Generative models with kernel distance in data space.
Differs from the paper: below 20 dimensions the distance to the normal is exact; with the
approximation it is 0.036 for normal samples in 8 dimensions, with its minimum at a scale of 0.95.
The pixels' bandwidth in "cramer-wold" reconstruction is that of each batch, not of the whole set.
The units are those of d2 above; published code omits 2 sqrt(pi) in the distance to the normal.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch, Outputs

CARD = Card(
    paper=(
        "Knop, Mazur, Spurek, Tabor, Podolak: Generative models with kernel distance in data "
        "space, arXiv:2009.07327"
    ),
    needs=("images",),
    reported={
        "FID, Cramer-Wold auto-encoder, MNIST": 24.22,
        "the same on Fashion-MNIST": 50.35,
        "the same on CIFAR-10": 118.1,
        "the same on CelebA": 48.02,
    },
)

Reconstruction = Literal["pixels", "cramer-wold"]

# Error below 2e-7 for s up to 300 in any number of dimensions.
_NODES = 32
# From here on the error of the approximation of phi is below 0.008.
_EXACT_BELOW = 20
# The logarithm needs a lower limit, for equal batches.
_SMALLEST = 1e-7


def normal_bandwidth(count: int) -> float:
    """Return Silverman's variance for `count` samples of a standard normal: (4 / (3 n))^(2/5)."""
    return float((4 / (3 * count)) ** 0.4)


def sample_bandwidth(spread: float, count: int) -> float:
    """Return the variance for `count` samples with the standard deviation `spread`."""
    return float((1.06 * spread * count**-0.2) ** 2)


@lru_cache
def _quadrature(dimensions: int) -> tuple[tuple[float, float], ...]:
    # t^2 is Beta(1/2, (D - 1)/2): Gauss-Jacobi nodes of its density on [0, 1].
    if dimensions == 1:
        return ((1.0, 1.0),)
    from scipy import special  # slow to import, so only here

    nodes, weights = special.roots_sh_jacobi(_NODES, dimensions / 2 - 1, 0.5)
    return tuple(zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True))


def exact_kernel(scaled: Float[Tensor, "*shape"], dimensions: int) -> Float[Tensor, "*shape"]:
    """Return phi(s) = 1F1(1/2; D/2; -s) by quadrature, for s >= 0."""
    value = torch.zeros_like(scaled)
    for node, weight in _quadrature(dimensions):
        value = value + weight * torch.exp(-node * scaled)
    return value


def approximate_kernel(scaled: Float[Tensor, "*shape"], dimensions: int) -> Float[Tensor, "*shape"]:
    """Return phi(s) ~ (1 + 4 s / (2 D - 3))^(-1/2), for D >= 2."""
    if dimensions < 2:
        raise ValueError(f"the approximation needs 2 dimensions, got {dimensions}; use exact")
    return torch.rsqrt(1 + 4 * scaled / (2 * dimensions - 3))


def squared_distances(
    one: Float[Tensor, "rows dimensions"], other: Float[Tensor, "columns dimensions"]
) -> Float[Tensor, "rows columns"]:
    """Return |x - y|^2 of every pair; a root, as in cdist, would have no gradient at 0."""
    centre = one.detach().mean(0)  # centring keeps distances and avoids cancellation
    one, other = one - centre, other - centre
    squares = one.square().sum(1)[:, None] + other.square().sum(1) - 2 * one @ other.T
    return squares.clamp(min=0)


def cramer_wold_distance(
    one: Float[Tensor, "rows dimensions"],
    other: Float[Tensor, "columns dimensions"],
    bandwidth: float | Tensor,
    *,
    exact: bool,
    unbiased: bool,
) -> Float[Tensor, ""]:
    """Return d2(X, Y), a scalar for the two samples.

    Args:
        bandwidth: the variance of the smoothing.
        unbiased: omit the pairs of an item with itself, for measurements; then negative for samples
            that are closer than usual for one distribution.
    """
    kernel = exact_kernel if exact else approximate_kernel
    own = [
        _mean(kernel(squared_distances(x, x) / (4 * bandwidth), x.shape[1]), unbiased)
        for x in (one, other)
    ]
    between = kernel(squared_distances(one, other) / (4 * bandwidth), one.shape[1]).mean()
    return (own[0] + own[1] - 2 * between) / (2 * (math.pi * bandwidth) ** 0.5)


def normality_distance(
    codes: Float[Tensor, "batch dimensions"], bandwidth: float, *, exact: bool, unbiased: bool
) -> Float[Tensor, ""]:
    """Return d2(X, N(0, I)), a scalar for the sample."""
    kernel = exact_kernel if exact else approximate_kernel
    dimensions = codes.shape[1]
    own = _mean(kernel(squared_distances(codes, codes) / (4 * bandwidth), dimensions), unbiased)
    between = kernel(codes.square().sum(1) / (4 * bandwidth + 2), dimensions).mean()
    normal, smoothed = (1 + bandwidth) ** -0.5, (bandwidth + 0.5) ** -0.5
    apart: Tensor = normal + own / math.sqrt(bandwidth) - 2 * smoothed * between
    return apart / (2 * math.sqrt(math.pi))


def _mean(pairs: Float[Tensor, "rows rows"], unbiased: bool) -> Tensor:
    """Return the mean over pairs of a sample with itself."""
    if not unbiased:
        return pairs.mean()
    count = len(pairs)
    return (pairs.sum() - pairs.diagonal().sum()) / (count * (count - 1))


@dataclass(frozen=True, kw_only=True)
class AutoEncoding:
    """Objective of an auto-encoder. Default: a plain one, for use with a latent generator.

    Args:
        normality: factor of the logarithm of the codes' distance to the normal; above 0 it is the
            Cramer-Wold auto-encoder, published with 1 for MNIST and 10 for coloured images.
        reconstruction: "pixels", the squared error of each image; "cramer-wold", the logarithm
            of the distance between the batch and its reconstructions.
        exact_below: number of code dimensions from which the kernel is approximated.
    """

    normality: float = 0.0
    reconstruction: Reconstruction = "pixels"
    exact_below: int = _EXACT_BELOW

    def __post_init__(self) -> None:
        for name in ("normality", "exact_below"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        one_of("reconstruction", self.reconstruction, get_args(Reconstruction))

    def __call__(
        self, student: Outputs, teacher: Outputs | None, batch: Batch
    ) -> dict[str, Tensor]:
        images, made = batch.images.flatten(1), student.output["images"].flatten(1)
        codes = student.output["codes"]
        if self.reconstruction == "pixels":
            terms = {"reconstruction": (images - made).square().sum(1).mean()}
        else:
            bandwidth = sample_bandwidth(float(images.std()), len(images))
            apart = cramer_wold_distance(images, made, bandwidth, exact=False, unbiased=False)
            terms = {"reconstruction": torch.log(apart + _SMALLEST)}
        if self.normality > 0:
            exact = codes.shape[1] < self.exact_below
            bandwidth = normal_bandwidth(len(codes))
            apart = normality_distance(codes, bandwidth, exact=exact, unbiased=False)
            terms["normality"] = self.normality * torch.log(apart + _SMALLEST)
        return terms


@dataclass(frozen=True, kw_only=True)
class LatentMatching:
    """Objective of a latent generator: the distance of its codes to those of a batch.

    Between two samples the approximation is itself a kernel distance, without bias.

    Args:
        spread: standard deviation of the codes' values over the whole set.
    """

    spread: float

    def __post_init__(self) -> None:
        positive("spread", self.spread)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        codes = teacher.output
        bandwidth = sample_bandwidth(self.spread, len(codes))
        exact = codes.shape[1] < 2
        apart = cramer_wold_distance(student.output, codes, bandwidth, exact=exact, unbiased=False)
        return {"latent_distance": apart}
