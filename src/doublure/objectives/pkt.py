"""Probabilistic knowledge transfer: match the similarities of samples, as probabilities.

Vectors x_i; s_ij = (1 + cos(x_i, x_j)) / 2; p_ij = s_ij / sum_j s_ij for the teacher, q_ij for the
student. L = w mean_ij p_ij log(p_ij / q_ij): each row is a KL divergence. The mean is over
batch x batch entries, hence the weight of 30 000. It relates samples of a batch: the loss is a
scalar.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, LossTerms
from doublure.objectives.pairing import FEATURES, Layers, PairedLoss, Pairs, pair_layers

CARD = Card(
    paper="Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer, "
    "arXiv:1803.10837",
    needs=("features",),
)
# Keeps the logarithm finite for opposite vectors, whose similarity is 0.
_EPS = 1e-7


def neighbour_probabilities(vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
    """Return the probability that sample i selects sample j (j = i included) as its neighbour."""
    units = F.normalize(vectors)
    similarity = (1 + units @ units.T) / 2
    return similarity / similarity.sum(1, keepdim=True)


def pkt_loss(
    student: Float[Tensor, "batch inputs"], teacher: Float[Tensor, "batch outputs"]
) -> Float[Tensor, ""]:
    """Return the mean over all pairs of p log(p / q); a scalar of the batch."""
    p, q = neighbour_probabilities(teacher), neighbour_probabilities(student)
    return (p * ((p + _EPS) / (q + _EPS)).log()).mean()


@dataclass(frozen=True, kw_only=True)
class PKT:
    """Objective: neighbour probabilities within a batch.

    Args:
        weight: factor on the mean over all pairs of samples.
        layers: layers to compare; the input of the classifier by default.
    """

    weight: float = 30_000.0
    layers: Layers = FEATURES

    def __post_init__(self) -> None:
        positive("weight", self.weight)

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> PairedLoss:
        pairing = pair_layers(self.layers, student, teacher, example)
        return PairedLoss(pairing, self._terms, vectors=True)

    def _terms(self, pairs: Pairs) -> LossTerms:
        losses = [pkt_loss(*pair) for pair in pairs]
        return {"pkt": self.weight * torch.stack(losses).sum()}


PUBLISHED = {"cifar100-benchmarks": PKT()}
