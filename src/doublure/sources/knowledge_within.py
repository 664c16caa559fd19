"""The Knowledge Within: images for calibration and fine-tuning, made from a network's weights.

Three ways to make them, of which the first is `Noise`: N(0, 1) in the network's normalised space,
clipped to [0, 1]. `Inceptionism` optimises images to be called by their labels and to be smooth,
    L = a_ce CE(T(x), y) + a_s mean (x - blur(x))^2,
for a transformer also to have patches that differ (`nets.patch_similarity`); and
`BatchNormStatistics` (BNS) to have the stored statistics, by the divergence of Gaussians with the
stored one first,
    L = a_b mean_l mean_c KL( N(stored) || N(batch) ),
without labels, or with the terms above (BNS+I). That direction punishes a batch whose variance is
too small without bound, so channels do not collapse.

Without labels the images are called with little confidence and unevenly: good for ranges of
activations, poor for distillation. What is matched is each batch, or the whole set drawn so far.

Haroush, Hubara, Hoffer, Soudry: arXiv:1912.01274. Differs from the paper: weights, jitter and
iterations are ours; no code was published, and its tables could not be had.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of
from doublure.core.protocols import InputContract, StreamContext
from doublure.nets.batchnorm_statistics import MomentsPool, Stored, batchnorm_kl
from doublure.nets.patch_similarity import patch_entropy, required_attention
from doublure.sources.image_optimisation import ImageOptimisation, Images
from doublure.sources.inversion import (
    InvertedStream,
    Labels,
    Seen,
    check_labels,
    known_statistics,
    required,
)

CARD = Card(
    paper=(
        "Haroush, Hubara, Hoffer, Soudry: The Knowledge Within: Methods for Data-Free Model "
        "Compression, arXiv:1912.01274"
    ),
    needs=("logits", "batchnorm", "gradients"),
)

Granularity = Literal["batch", "set"]
_BLUR_STD = 1.0
_BLUR_REACH = 2
# What a blur takes from a smooth picture is its curvature, which for the same picture at half the
# side is four times as large, and squared sixteen times. So below this side the weight falls with
# the fourth power: ours. At full weight, strokes of digits of 8 pixels are wiped out.
_BLURRED_SIDE = 32
# A quarter of what DeepInversion takes on CIFAR-10, and a jitter of an eighth of the side.
_OPTIMISATION = ImageOptimisation(iterations=500, learning_rate=0.1, jitter=4, clamp=True)


def blur(images: Images) -> Images:
    """Return the images under a 5 x 5 Gaussian of deviation 1, mirrored at their edges."""
    places = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-places.square() / (2 * _BLUR_STD**2))
    weights = weights / weights.sum()
    channels = images.shape[1]
    padded = F.pad(images, (_BLUR_REACH,) * 4, mode="reflect")
    down = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    across = weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(padded, down, groups=channels), across, groups=channels)


def roughness(images: Images) -> Float[Tensor, ""]:
    """Return the mean squared difference between images and what is left of them when blurred."""
    return (images - blur(images)).square().mean()


def within_loss(
    seen: Seen,
    labels: Tensor,
    known: Mapping[str, Stored],
    statistics: float,
    cross_entropy: float,
    smoothness: float,
    patches: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the sum of the terms with these weights; one of weight 0 is not computed."""
    terms = [torch.zeros((), device=seen.images.device)]
    if statistics:
        terms.append(statistics * batchnorm_kl(seen.moments, known))
    if cross_entropy:
        terms.append(cross_entropy * F.cross_entropy(seen.logits, labels))
    if smoothness:
        terms.append(smoothness * roughness(seen.normalised))
    if patches:
        terms.append(-patches * patch_entropy(seen.patches))
    return torch.stack(terms).sum()


@dataclass(frozen=True, kw_only=True)
class Inceptionism:
    """Source: smooth images that the teacher calls by their labels.

    Args:
        cross_entropy: weight of calling the images by their labels.
        smoothness: weight of the difference from the blurred image.
        patches: weight of the spread of patch similarities, for a transformer; its publication,
            for ranges of activations, has 1.
        labels: "balanced", in turn; or "random", each on its own.
        optimisation: how a batch is optimised.
    """

    cross_entropy: float = 1.0
    smoothness: float = 1.0
    patches: float = 0.0
    labels: Labels = "balanced"
    optimisation: ImageOptimisation = field(default_factory=lambda: _OPTIMISATION)

    def __post_init__(self) -> None:
        check_labels(self.labels)
        _check_weights(
            cross_entropy=self.cross_entropy, smoothness=self.smoothness, patches=self.patches
        )

    @property
    def optimises(self) -> Literal["images"]:
        return "images"

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> InvertedStream:
        teacher = required(teacher)
        known = known_statistics(teacher, context, None, needed=False)

        def losses(labels: Tensor, student: nn.Module | None) -> partial[Tensor]:
            return partial(
                within_loss,
                labels=labels,
                known=known,
                statistics=0.0,
                cross_entropy=self.cross_entropy,
                smoothness=self.smoothness,
                patches=self.patches,
            )

        attention = required_attention(teacher) if self.patches else ()
        return InvertedStream(
            losses,
            self.optimisation,
            self.labels,
            context,
            teacher,
            known,
            rng,
            attention=attention,
        )


@dataclass(frozen=True, kw_only=True)
class BatchNormStatistics:
    """Source: images with the stored statistics; without labels, unless they are asked for.

    Args:
        divergence: weight of the divergence from the stored statistics.
        cross_entropy: weight of calling the images by their labels; 0 for images without.
        smoothness: weight of the difference from the blurred image.
        granularity: what has the statistics: each "batch", or the "set" of all drawn so far.
        labels: "balanced", in turn; or "random", each on its own.
        statistics: images (a folder, SET or .npz) to take the statistics from, before each
            normalising layer, for a teacher without BatchNorm; None takes those it has stored.
        optimisation: how a batch is optimised.
    """

    divergence: float = 1.0
    cross_entropy: float = 0.0
    smoothness: float = 0.0
    granularity: Granularity = "batch"
    labels: Labels = "balanced"
    statistics: str | None = None
    optimisation: ImageOptimisation = field(default_factory=lambda: _OPTIMISATION)

    def __post_init__(self) -> None:
        check_labels(self.labels)
        one_of("granularity", self.granularity, get_args(Granularity))
        _check_weights(
            divergence=self.divergence,
            cross_entropy=self.cross_entropy,
            smoothness=self.smoothness,
        )

    @property
    def optimises(self) -> Literal["images"]:
        return "images"

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> InvertedStream:
        teacher = required(teacher)
        known = known_statistics(teacher, context, self.statistics, needed=True)

        def losses(labels: Tensor, student: nn.Module | None) -> partial[Tensor]:
            return partial(
                within_loss,
                labels=labels,
                known=known,
                statistics=self.divergence,
                cross_entropy=self.cross_entropy,
                smoothness=self.smoothness,
            )

        history = MomentsPool() if self.granularity == "set" else None
        labels = self.labels if self.cross_entropy else None
        return InvertedStream(
            losses, self.optimisation, labels, context, teacher, known, rng, history
        )


def inceptionism_for(contract: InputContract) -> Inceptionism:
    """Return the settings for images of this size."""
    smoothness = min(1.0, (min(contract.size) / _BLURRED_SIDE) ** 4)
    return Inceptionism(smoothness=smoothness, optimisation=_optimisation_for(contract))


def batch_norm_statistics_for(contract: InputContract) -> BatchNormStatistics:
    """Return the settings for images of this size."""
    return BatchNormStatistics(optimisation=_optimisation_for(contract))


def _optimisation_for(contract: InputContract) -> ImageOptimisation:
    return replace(_OPTIMISATION, jitter=min(contract.size) // 8)


def _check_weights(**weights: float) -> None:
    for name, value in weights.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    if not any(weights.values()):
        raise ValueError(f"one of {', '.join(weights)} must be above 0: nothing is asked for")


COMBINED = BatchNormStatistics(divergence=10.0, cross_entropy=1.0, smoothness=1.0)
