"""The Knowledge Within: images for calibration and fine-tuning, made from a network's weights.

Three methods, of which the first is `Noise`: N(0, 1) in the network's normalised space, clipped to
[0, 1]. `Inceptionism` optimises images that the teacher assigns to their labels and that are
smooth,
    L = a_ce CE(T(x), y) + a_s mean (x - blur(x))^2,
for a transformer also with diverse patches (`nets.patch_similarity`). `BatchNormStatistics` (BNS)
matches the stored statistics, by the KL divergence of Gaussians with the stored one first,
    L = a_b mean_l mean_c KL( N(stored) || N(batch) ),
without labels, or with the terms above (BNS+I). In this direction the penalty of a variance that is
too small is unbounded, so that channels do not collapse.

Without labels the teacher predicts the images with low confidence and unbalanced classes: they are
good for ranges of activations, and poor for distillation. The statistics are those of each batch,
or of all images drawn so far.

Haroush, Hubara, Hoffer, Soudry: arXiv:1912.01274. Differs from the paper: weights, jitter and
iterations are ours; no code was published, and its tables were not available.
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
from doublure.nets.patch_similarity import patch_entropy, require_attention
from doublure.sources.image_optimisation import ImageOptimisation, Images
from doublure.sources.inversion import (
    InvertedStream,
    Labels,
    LossInputs,
    check_labels,
    known_statistics,
    require_teacher,
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
# The roughness of a smooth image is its squared curvature: at half the side the curvature is 4
# times larger, its square 16 times. So below this side the weight falls with the fourth power (our
# choice). At full weight, the strokes of 8-pixel digits disappear.
_BLURRED_SIDE = 32
# A quarter of DeepInversion's iterations on CIFAR-10, and a jitter of 1/8 of the side.
_OPTIMISATION = ImageOptimisation(iterations=500, learning_rate=0.1, jitter=4, clamp=True)


def blur(images: Images) -> Images:
    """Return the images after a 5 x 5 Gaussian blur of standard deviation 1, mirrored at edges."""
    places = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-places.square() / (2 * _BLUR_STD**2))
    weights = weights / weights.sum()
    channels = images.shape[1]
    padded = F.pad(images, (_BLUR_REACH,) * 4, mode="reflect")
    down = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    across = weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(padded, down, groups=channels), across, groups=channels)


def roughness(images: Images) -> Float[Tensor, ""]:
    """Return the mean squared difference between images and their blurred copies."""
    return (images - blur(images)).square().mean()


def within_loss(
    inputs: LossInputs,
    labels: Tensor,
    known: Mapping[str, Stored],
    statistics: float,
    cross_entropy: float,
    smoothness: float,
    patches: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the weighted sum of the terms; a term with weight 0 is not computed."""
    terms = [torch.zeros((), device=inputs.images.device)]
    if statistics:
        terms.append(statistics * batchnorm_kl(inputs.moments, known))
    if cross_entropy:
        terms.append(cross_entropy * F.cross_entropy(inputs.logits, labels))
    if smoothness:
        terms.append(smoothness * roughness(inputs.normalised))
    if patches:
        terms.append(-patches * patch_entropy(inputs.patches))
    return torch.stack(terms).sum()


@dataclass(frozen=True, kw_only=True)
class Inceptionism:
    """Source: smooth images that the teacher assigns to given labels.

    Args:
        cross_entropy: weight of the cross-entropy with the labels.
        smoothness: weight of the difference from the blurred image.
        patches: weight of the entropy of patch similarities, for a transformer; its paper, on
            ranges of activations, uses 1.
        labels: "balanced" uses all classes equally often; "random" draws each label independently.
        optimisation: settings of the optimisation.
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
        teacher = require_teacher(teacher)
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

        attention = require_attention(teacher) if self.patches else ()
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
    """Source: images that match the stored statistics, by default without labels.

    Args:
        divergence: weight of the divergence from the stored statistics.
        cross_entropy: weight of the cross-entropy with the labels; 0 for images without labels.
        smoothness: weight of the difference from the blurred image.
        granularity: images whose statistics are matched: each "batch", or the "set" of all images
            drawn so far.
        labels: "balanced" uses all classes equally often; "random" draws each label independently.
        statistics: images (a folder, SET or .npz) on which the statistics are measured, before each
            normalisation layer, for a teacher without BatchNorm; None uses the stored statistics.
        optimisation: settings of the optimisation.
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
        teacher = require_teacher(teacher)
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
        raise ValueError(f"one of {', '.join(weights)} must be positive: the loss has no term")


COMBINED = BatchNormStatistics(divergence=10.0, cross_entropy=1.0, smoothness=1.0)
