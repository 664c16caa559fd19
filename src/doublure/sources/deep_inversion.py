"""DeepInversion: optimise images until their feature statistics match the teacher's BatchNorms.

A batch x with labels y starts as noise and is optimised to minimise
    L = a_ce CE(T(x'), y) + a_f R_feat(x') + a_tv TV(x) + a_l2 |x|_2 + a_c (1 - JS(T(x'), S(x')))
        - a_p H(x')
x' is x rolled and flipped at random. R_feat is the distance of the batch's feature statistics from
the stored ones (`nets.batchnorm_statistics`). TV is the norm of the differences of neighbouring
pixels. Both are in normalised space. JS is the Jensen-Shannon divergence, base 2, at a temperature
(3 in the paper). With a_c > 0 teacher and student disagree on the images: Adaptive DeepInversion. S
is the current student, in eval mode, at each draw; wrap this source in `Replay`. If there is no
student (in `synthesize`, for the first batches of Replay) the term is omitted. H is the entropy of
patch similarities (`nets.patch_similarity`), for transformers without BatchNorm.

The statistics are those of the whole batch: its images depend on each other, and its labels should
cover the classes. By default labels are balanced.

The norms of TV and of |x| are over the whole batch, as in the public code: they grow with the
square root of the batch size, and their weights should be divided by that factor.

Yin et al.: Dreaming to Distill, arXiv:1912.08795. Differs from the paper: the iterate with the
smallest loss is kept; images are clipped to [0, 1] at the end; TV is computed before the image is
rolled, so that the seam is not smoothed; coarse images are optimised at their small size. JS is the
exact divergence: the public code computes 0.5 KL(M || P) + 0.5 KL(M || Q) on probabilities clamped
to [0.01, 0.99] and clips it to [0, 1], where confident disagreement has no gradient; `official`
selects that.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import InputContract, StreamContext
from doublure.nets.batchnorm_statistics import (
    Stored,
    feature_statistics_loss,
)
from doublure.nets.network import freeze
from doublure.nets.patch_similarity import patch_entropy, require_attention
from doublure.objectives.divergence import divergence_loss
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
        "Yin, Molchanov, Li, Alvarez, Mallya, Hoiem, Jha, Kautz: Dreaming to Distill: Data-free "
        "Knowledge Transfer via DeepInversion, arXiv:1912.08795"
    ),
    needs=("logits", "batchnorm", "gradients"),
    reported={
        "CIFAR-10, ResNet-34 to ResNet-18, noise and cross-entropy": 13.61,
        "the same with the image prior (DeepDream)": 29.98,
        "the same with the feature statistics (DeepInversion)": 91.43,
        "the same with competition (Adaptive DeepInversion)": 93.26,
    },
)


# Image sides: below the first no setting is published; from the second on use those for ImageNet.
_TINY, _LARGE = 16, 96


def _differences(images: Images) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, :-1] - images[..., :-1, 1:],
        images[..., 1:, 1:] - images[..., :-1, :-1],
    )


def total_variation(images: Images, *, per_image: bool) -> Float[Tensor, ""]:
    """Return the sum of the L2 norms of differences along rows, columns and both diagonals.

    Args:
        per_image: the mean of the norms of single images, instead of the norm of the whole batch.
    """
    norms = [image_norm(difference, per_image=per_image) for difference in _differences(images)]
    return torch.stack(norms).sum()


def total_variation_l1(images: Images) -> Float[Tensor, ""]:
    """Return the sum of the mean absolute differences along rows, columns and both diagonals."""
    return torch.stack([d.abs().mean() for d in _differences(images)]).sum()


def image_norm(images: Images, *, per_image: bool) -> Float[Tensor, ""]:
    """Return the L2 norm of the whole batch, or the mean of the norms of single images."""
    rows = images.flatten(1) if per_image else images.flatten()[None]
    norm: Tensor = torch.linalg.vector_norm(rows, dim=1).mean()
    return norm


def jensen_shannon(
    one: Float[Tensor, "batch classes"], other: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, " batch"]:
    """Return the divergence of the two softmax outputs in bits: 0 if equal, 1 if disjoint."""
    nats = divergence_loss(other, one, "jensen-shannon", 0.5, temperature) / temperature**2
    return nats / math.log(2)


def official_divergence(
    one: Float[Tensor, "batch classes"], other: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, " batch"]:
    """Return the public code's substitute for the Jensen-Shannon divergence, before clipping.

    0.5 KL(M || P) + 0.5 KL(M || Q) in nats, with each probability clamped to [0.01, 0.99].
    """
    p, q = (F.softmax(logits / temperature, dim=-1) for logits in (one, other))
    m = ((p + q) / 2).clamp(0.01, 0.99)
    p, q = p.clamp(0.01, 0.99), q.clamp(0.01, 0.99)
    return (m * (m.log() - (p.log() + q.log()) / 2)).sum(-1)


@dataclass(frozen=True, kw_only=True)
class DeepInversion:
    """Source: images optimised from the teacher's weights. Default: the setting for CIFAR-10.

    Args:
        cross_entropy: weight of the cross-entropy with the labels.
        features: weight of the feature statistics.
        first_layer_multiplier: extra factor for the first BatchNorm layer.
        total_variation: weight of the L2 total variation.
        total_variation_l1: weight of the L1 total variation.
        l2: weight of the images' norm.
        total_variation_per_image: whether the L2 total variation is a mean over images, not of the
            whole batch.
        l2_per_image: the same for the norm.
        competition: weight of the disagreement of teacher and student.
        patches: weight of the entropy of patch similarities, for a transformer without BatchNorm;
            its paper uses 1, instead of the feature statistics.
        temperature: temperature of teacher and student in the disagreement.
        official: compute the disagreement as the public code does.
        labels: "balanced" uses all classes equally often; "random" draws each label independently.
        statistics: images (a folder, SET or .npz) on which the feature statistics are measured,
            before each normalisation layer, for a teacher without BatchNorm; None uses the stored
            statistics.
        optimisation: settings of the optimisation.
    """

    cross_entropy: float = 1.0
    features: float = 10.0
    first_layer_multiplier: float = 1.0
    total_variation: float = 2.5e-5
    total_variation_l1: float = 0.0
    l2: float = 0.0
    total_variation_per_image: bool = False
    l2_per_image: bool = False
    competition: float = 0.0
    patches: float = 0.0
    temperature: float = 3.0
    official: bool = False
    labels: Labels = "balanced"
    statistics: str | None = None
    optimisation: ImageOptimisation = field(default_factory=ImageOptimisation)

    def __post_init__(self) -> None:
        check_labels(self.labels)
        positive("temperature", self.temperature)
        weights = ("cross_entropy", "features", "total_variation", "total_variation_l1", "l2")
        for name in (*weights, "competition", "patches"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def optimises(self) -> Literal["images"]:
        return "images"

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "InvertedStream":
        teacher = require_teacher(teacher)
        known = known_statistics(teacher, context, self.statistics, needed=self.features > 0)

        def losses(labels: Tensor, student: nn.Module | None) -> "InversionLoss":
            return InversionLoss(self, student, labels, known)

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


class InversionLoss:
    """The loss of one batch of images."""

    def __init__(
        self,
        settings: DeepInversion,
        student: nn.Module | None,
        labels: Tensor,
        known: Mapping[str, Stored],
    ) -> None:
        self._settings, self._labels, self._known = settings, labels, known
        self._student = freeze(student) if student is not None and settings.competition else None

    def __call__(self, inputs: LossInputs) -> Tensor:
        settings, x = self._settings, inputs.normalised
        terms = [settings.cross_entropy * F.cross_entropy(inputs.logits, self._labels)]
        if settings.features:
            multiplier = settings.first_layer_multiplier
            distance = feature_statistics_loss(inputs.moments, self._known, multiplier)
            terms.append(settings.features * distance)
        if settings.total_variation:
            variation = total_variation(x, per_image=settings.total_variation_per_image)
            terms.append(settings.total_variation * variation)
        if settings.total_variation_l1:
            terms.append(settings.total_variation_l1 * total_variation_l1(x))
        if settings.l2:
            terms.append(settings.l2 * image_norm(x, per_image=settings.l2_per_image))
        if settings.patches:
            terms.append(-settings.patches * patch_entropy(inputs.patches))
        if self._student is not None:
            student_logits = self._student(inputs.images).float()
            terms.append(settings.competition * self._agreement(inputs.logits, student_logits))
        return torch.stack(terms).sum()

    def _agreement(self, teacher: Tensor, student: Tensor) -> Tensor:
        if self._settings.official:
            divergence = official_divergence(teacher, student, self._settings.temperature)
            return 1 - divergence.mean().clamp(0, 1)
        return 1 - jensen_shannon(teacher, student, self._settings.temperature).mean()


_IMAGENET = ImageOptimisation(
    iterations=20_000, learning_rate=0.2, schedule="cosine", jitter=30, flip=0.5
)
_IMAGENET_FAST = ImageOptimisation(
    iterations=1000,
    learning_rate=0.25,
    betas=(0.5, 0.9),
    schedule="cosine",
    jitter=30,
    flip=0.5,
    clamp=True,
    coarse_iterations=2000,
)


def _imagenet(optimisation: ImageOptimisation, competition: float = 0.0) -> DeepInversion:
    return DeepInversion(
        features=0.01,
        first_layer_multiplier=10.0,
        total_variation=1e-4,
        l2=1e-5,
        l2_per_image=True,
        competition=competition,
        optimisation=optimisation,
    )


PUBLISHED = {
    "cifar10": DeepInversion(),
    "cifar10-adaptive": DeepInversion(competition=10.0),
    "imagenet": _imagenet(_IMAGENET),
    "imagenet-fast": _imagenet(_IMAGENET_FAST),
    "imagenet-fast-adaptive": _imagenet(_IMAGENET_FAST, competition=0.2),
}


def settings_for(contract: InputContract, *, adaptive: bool = False) -> DeepInversion:
    """Return the settings for images of this size: the published ones, ours below 16 pixels."""
    side = min(contract.size)
    if side < _TINY:
        optimisation = ImageOptimisation(iterations=250, learning_rate=0.1, jitter=1, clamp=True)
        competition = 1.0 if adaptive else 0.0
        return DeepInversion(
            features=1.0, total_variation=0.002, competition=competition, optimisation=optimisation
        )
    name = "cifar10" if side < _LARGE else "imagenet-fast"
    return PUBLISHED[f"{name}-adaptive" if adaptive else name]
