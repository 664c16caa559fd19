"""Similarity preserving: match the similarity matrix of a batch with the teacher's.

Maps of b images after the activation of the last stage, each flattened: Q (b x d); G = Q Q^T
(b x b), each row divided by its length. L = w (b / B) sum over layers of ||G_T - G_S||^2 / b^2,
where B is the batch size for which the weight w was published. Why the factor b / B: for features
that are not negative, ||G_T - G_S||^2 is at most 2 b, so that without it L / w would fall as 1 / b.
Widths, depths and sizes may differ: the loss needs no adapter and no labels.

The loss is a scalar of the batch, in float32. Rows of G, not samples, have length 1, so that
scaling the features of one image changes the matrix. With several processes, each compares its own
images.

Tung, Mori: arXiv:1907.09682. Differs from the paper: the weight scales with the batch size, and
equals the paper's at the batch size for which it was published. In pre-activation networks (WRN) a
stage ends in a sum: we compare the output of the next activation, public code compares the sum.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, LossTerms
from doublure.objectives.pairing import LAST, Layers, PairedLoss, Pairs, pair_layers

CARD = Card(
    paper="Tung, Mori: Similarity-Preserving Knowledge Distillation, arXiv:1907.09682",
    needs=("features",),
    reported={
        "CIFAR-10 test error %, WRN-40-1 -> WRN-16-1": 8.13,
        "the student alone": 8.74,
        "the teacher": 6.51,
        "CIFAR-100 accuracy, resnet56 -> resnet20, re-run by RepDistiller": 69.67,
        "soft targets, same source": 70.66,
    },
)


def similarities(features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch batch"]:
    """Return inner products of all pairs of samples, each row of length 1; a zero row stays 0."""
    rows = features.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


def similarity_preserving_loss(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """Return the mean squared difference of the two matrices, a scalar of the batch."""
    return (similarities(teacher) - similarities(student)).square().mean()


@dataclass(frozen=True, kw_only=True)
class SimilarityPreserving:
    """Objective: the similarity matrix of a batch. Default: the paper's setting for CIFAR-10.

    Args:
        weight: factor on the loss for batches of `batch_size`; it scales with the batch.
        batch_size: batch size for which the weight was published.
        layers: layers to compare; the last stage by default.
    """

    weight: float = 3000.0
    batch_size: int = 128
    layers: Layers = LAST

    def __post_init__(self) -> None:
        for name in ("weight", "batch_size"):
            positive(name, getattr(self, name))

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> PairedLoss:
        return PairedLoss(pair_layers(self.layers, student, teacher, example), self._compare)

    def _compare(self, pairs: Pairs) -> LossTerms:
        losses = [similarity_preserving_loss(student, teacher) for student, teacher in pairs]
        weight = self.weight * len(pairs[0][0]) / self.batch_size
        return {"similarity": weight * torch.stack(losses).sum()}


PUBLISHED = {
    "cifar10": SimilarityPreserving(),
    "cifar100-benchmarks": SimilarityPreserving(batch_size=64),
}
