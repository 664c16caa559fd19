"""Relational knowledge distillation: match the distances and angles between samples.

Embeddings e_i are the inputs of the classifiers.
    distance   psi(i, j) = ||e_i - e_j|| / mean of the positive distances
    angle      psi(i, j, k) = <(e_i - e_j) / ||.||, (e_k - e_j) / ||.||>
L = w_d mean h(psi_s - psi_t over pairs) + w_a mean h(psi_s - psi_t over triplets), h the Huber loss
with threshold 1; means are over all entries, including equal indices. Both relate samples of a
batch: the losses are scalars, not one value per sample. Angles need memory for batch^3 values.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.protocols import Batch, LossTerms
from doublure.objectives.pairing import FEATURES, Layers, PairedLoss, Pairs, pair_layers

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
    # If all samples are equal, all distances are 0 and stay 0.
    scale = distances.sum() / positive.sum().clamp(min=1)
    return distances / scale.clamp(min=1e-12)


def angles(embeddings: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch batch"]:
    """Return the cosine of the angle at sample j between samples i and k, at index [j, i, k]."""
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
        distance_weight: weight of the distances of pairs; 0 turns the term off.
        angle_weight: weight of the angles of triplets; 0 turns the term off.
        layers: layers to compare; the input of the classifier by default.
    """

    distance_weight: float = 25.0
    angle_weight: float = 50.0
    layers: Layers = FEATURES

    def __post_init__(self) -> None:
        if min(self.distance_weight, self.angle_weight) < 0 or not (
            self.distance_weight + self.angle_weight > 0
        ):
            raise ValueError(
                "distance_weight and angle_weight must not be negative, and at least one must be "
                f"positive, got {self.distance_weight} and {self.angle_weight}"
            )

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> PairedLoss:
        pairing = pair_layers(self.layers, student, teacher, example)
        return PairedLoss(pairing, self._terms, vectors=True)

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
