"""DeepInversion: images optimised until a teacher's BatchNorm layers see what they saw in training.

A batch x with labels y is optimised from noise to a small
    L = a_ce CE(T(x'), y) + a_f R_feat(x') + a_tv TV(x) + a_l2 |x|_2 + a_c (1 - JS(T(x'), S(x')))
        - a_p H(x')
x' being x rolled and mirrored at random, R_feat the distance of the batch's feature statistics
from those stored (`nets.batchnorm_statistics`), TV the norm of the differences of neighbouring
pixels, all in normalised space, and JS the Jensen-Shannon divergence, base 2, at a temperature
(3 in the paper). With a_c the images are those at which teacher and student disagree: Adaptive
DeepInversion; S is the student in training, in eval mode, asked at each draw. Put `Replay` around.
Where there is no student (in `synthesize`, for the first batches of Replay) the term is left out.
H is how patch similarities spread (`nets.patch_similarity`), which is there to be asked of a
transformer without BatchNorm.

A batch matches the statistics as a whole, so its images depend on each other, and its labels
should cover the classes: by default they come up in turn.

The norms of TV and of |x| are over the whole batch, as in the public code: they grow with the root
of the batch size, and so should their weights' inverse.

Yin et al.: Dreaming to Distill, arXiv:1912.08795. Differs from the paper: the iterate with the
smallest loss is kept; images are clipped to [0, 1] at the end; TV is taken of the image before it
is rolled, so that the seam is not smoothed; coarse images are optimised as such. JS is one: the
public code computes 0.5 KL(M || P) + 0.5 KL(M || Q) on probabilities clamped to [0.01, 0.99] and
clips it to [0, 1], where confident disagreement has no gradient; `official` asks for that.
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
from doublure.nets.patch_similarity import patch_entropy, required_attention
from doublure.objectives.divergence import divergence_loss
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


# Smaller images than any published, and the least side at which ImageNet's settings are taken.
_TINY, _LARGE = 16, 96


def _differences(images: Images) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, :-1] - images[..., :-1, 1:],
        images[..., 1:, 1:] - images[..., :-1, :-1],
    )


def total_variation(images: Images, *, per_image: bool) -> Float[Tensor, ""]:
    """Return the L2 norms of the differences along rows, columns and diagonals, summed.

    Args:
        per_image: the norm of each image, averaged, in place of that of the whole batch.
    """
    norms = [image_norm(difference, per_image=per_image) for difference in _differences(images)]
    return torch.stack(norms).sum()


def total_variation_l1(images: Images) -> Float[Tensor, ""]:
    """Return the mean absolute differences along rows, columns and diagonals, summed."""
    return torch.stack([d.abs().mean() for d in _differences(images)]).sum()


def image_norm(images: Images, *, per_image: bool) -> Float[Tensor, ""]:
    """Return the L2 norm of the whole batch, or the mean of each image's."""
    rows = images.flatten(1) if per_image else images.flatten()[None]
    norm: Tensor = torch.linalg.vector_norm(rows, dim=1).mean()
    return norm


def jensen_shannon(
    one: Float[Tensor, "batch classes"], other: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, " batch"]:
    """Return the divergence of the softmax of two logits in bits: 0 if equal, 1 if disjoint."""
    nats = divergence_loss(other, one, "jensen-shannon", 0.5, temperature) / temperature**2
    return nats / math.log(2)


def official_divergence(
    one: Float[Tensor, "batch classes"], other: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, " batch"]:
    """Return what the public code has in place of the Jensen-Shannon divergence, before clipping.

    0.5 KL(M || P) + 0.5 KL(M || Q) in nats, each probability clamped to [0.01, 0.99].
    """
    p, q = (F.softmax(logits / temperature, dim=-1) for logits in (one, other))
    m = ((p + q) / 2).clamp(0.01, 0.99)
    p, q = p.clamp(0.01, 0.99), q.clamp(0.01, 0.99)
    return (m * (m.log() - (p.log() + q.log()) / 2)).sum(-1)


@dataclass(frozen=True, kw_only=True)
class DeepInversion:
    """Source: images made from the teacher's weights. Default: CIFAR-10's.

    Args:
        cross_entropy: weight of calling the images by their labels.
        features: weight of the feature statistics.
        first_layer_multiplier: of the first BatchNorm layer's distance.
        total_variation: weight of the L2 form.
        total_variation_l1: weight of the L1 form.
        l2: weight of the images' norm.
        total_variation_per_image: mean over images of the L2 form, not that of the whole batch.
        l2_per_image: the same of the norm.
        competition: weight of teacher and student disagreeing.
        patches: weight of the spread of patch similarities, for a transformer without BatchNorm;
            its publication has 1, in place of the feature statistics.
        temperature: of the two when they are compared.
        official: compare them as the public code does.
        labels: "balanced", in turn; or "random", each on its own.
        statistics: images (a folder, SET or .npz) to take the feature statistics from, before each
            normalising layer, for a teacher without BatchNorm; None takes those it has stored.
        optimisation: how a batch is optimised.
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
        teacher = required(teacher)
        known = known_statistics(teacher, context, self.statistics, needed=self.features > 0)

        def losses(labels: Tensor, student: nn.Module | None) -> "InversionLoss":
            return InversionLoss(self, student, labels, known)

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


class InversionLoss:
    """The terms of one batch, from the images as the networks see them and as they are."""

    def __init__(
        self,
        settings: DeepInversion,
        student: nn.Module | None,
        labels: Tensor,
        known: Mapping[str, Stored],
    ) -> None:
        self._settings, self._labels, self._known = settings, labels, known
        self._student = freeze(student) if student is not None and settings.competition else None

    def __call__(self, seen: Seen) -> Tensor:
        settings, x = self._settings, seen.normalised
        terms = [settings.cross_entropy * F.cross_entropy(seen.logits, self._labels)]
        if settings.features:
            multiplier = settings.first_layer_multiplier
            distance = feature_statistics_loss(seen.moments, self._known, multiplier)
            terms.append(settings.features * distance)
        if settings.total_variation:
            variation = total_variation(x, per_image=settings.total_variation_per_image)
            terms.append(settings.total_variation * variation)
        if settings.total_variation_l1:
            terms.append(settings.total_variation_l1 * total_variation_l1(x))
        if settings.l2:
            terms.append(settings.l2 * image_norm(x, per_image=settings.l2_per_image))
        if settings.patches:
            terms.append(-settings.patches * patch_entropy(seen.patches))
        if self._student is not None:
            answers = self._student(seen.images).float()
            terms.append(settings.competition * self._agreement(seen.logits, answers))
        return torch.stack(terms).sum()

    def _agreement(self, teacher: Tensor, student: Tensor) -> Tensor:
        if self._settings.official:
            apart = official_divergence(teacher, student, self._settings.temperature)
            return 1 - apart.mean().clamp(0, 1)
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
    """Return the settings for images of this size: published ones, or ours below 16 pixels."""
    side = min(contract.size)
    if side < _TINY:
        optimisation = ImageOptimisation(iterations=250, learning_rate=0.1, jitter=1, clamp=True)
        competition = 1.0 if adaptive else 0.0
        return DeepInversion(
            features=1.0, total_variation=0.002, competition=competition, optimisation=optimisation
        )
    name = "cifar10" if side < _LARGE else "imagenet-fast"
    return PUBLISHED[f"{name}-adaptive" if adaptive else name]
