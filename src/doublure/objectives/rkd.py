"""Relational knowledge distillation: keep the distances and angles between samples.

Embeddings e_i, the vectors that enter the classifiers.
    distance   psi(i, j) = ||e_i - e_j|| / mean of those that are positive
    angle      psi(i, j, k) = <(e_i - e_j) / ||.||, (e_k - e_j) / ||.||>
L = w_d mean h(psi_s - psi_t over pairs) + w_a mean h(psi_s - psi_t over triplets), h the Huber loss
at 1; means over all entries, those of equal indices included. Both are relations within a batch:
the losses are scalars, not one number a sample. Angles take batch^3 numbers of memory.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.protocols import Batch, LossTerms
from doublure.objectives.pairing import FEATURES, Compared, Layers, Pairs, pair_layers

CARD = Card(
    paper="Park, Kim, Lu, Cho: Relational Knowledge Distillation, arXiv:1904.05068",
    needs=("features",),
    reported={
        "CIFAR-100 accuracy, wrn40-2 -> wrn16-2, re-run by RepDistiller": 73.35,
        "wrn16-2 alone, same source": 73.26,
    },
)


def relative_distances(embeddings: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
    """Return the pairwise distances over the mean of the positive ones."""
    distances: Tensor = torch.linalg.vector_norm(embeddings[:, None] - embeddings[None], dim=-1)
    positive = distances > 0
    # Where all samples are one there is no scale, and nothing to divide.
    scale = distances.sum() / positive.sum().clamp(min=1)
    return distances / scale.clamp(min=1e-12)


def angles(embeddings: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch batch"]:
    """Return the cosine of the angle at sample j between i and k, by [j, i, k]."""
    directions = F.normalize(embeddings[None] - embeddings[:, None], dim=-1)
    return directions @ directions.transpose(1, 2)


def distance_loss(
    student: Float[Tensor, "batch inputs"], teacher: Float[Tensor, "batch outputs"]
) -> Float[Tensor, ""]:
    """Return the Huber loss between relative distances; a scalar of the batch."""
    return F.smooth_l1_loss(relative_distances(student), relative_distances(teacher))


def angle_loss(
    student: Float[Tensor, "batch inputs"], teacher: Float[Tensor, "batch outputs"]
) -> Float[Tensor, ""]:
    """Return the Huber loss between cosines; a scalar of the batch."""
    return F.smooth_l1_loss(angles(student), angles(teacher))


@dataclass(frozen=True, kw_only=True)
class RKD:
    """Objective: distances and angles between the samples of a batch.

    Args:
        distance_weight: of the pairs; 0 leaves them out.
        angle_weight: of the triplets; 0 leaves them out.
        layers: which are compared; the vector that enters the classifier by default.
    """

    distance_weight: float = 25.0
    angle_weight: float = 50.0
    layers: Layers = FEATURES

    def __post_init__(self) -> None:
        if min(self.distance_weight, self.angle_weight) < 0 or not (
            self.distance_weight + self.angle_weight > 0
        ):
            raise ValueError(
                "distance_weight and angle_weight must not be negative, and one must be positive, "
                f"got {self.distance_weight} and {self.angle_weight}"
            )

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> Compared:
        pairing = pair_layers(self.layers, student, teacher, example)
        return Compared(pairing, self._terms, vectors=True)

    def _terms(self, pairs: Pairs) -> LossTerms:
        terms: LossTerms = {}
        if self.distance_weight:
            losses = [distance_loss(*pair) for pair in pairs]
            terms["rkd_distance"] = self.distance_weight * torch.stack(losses).sum()
        if self.angle_weight:
            losses = [angle_loss(*pair) for pair in pairs]
            terms["rkd_angle"] = self.angle_weight * torch.stack(losses).sum()
        return terms


PUBLISHED = {
    "cifar100-benchmarks": RKD(),
    "distance-only": RKD(angle_weight=0.0),
    "angle-only": RKD(distance_weight=0.0),
}
