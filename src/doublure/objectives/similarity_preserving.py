"""Similarity preserving: images that look alike to the teacher shall look alike to the student.

Maps of b images after the activation of the last stage, each flattened: Q (b x d); G = Q Q^T
(b x b), each row divided by its length. L = w (b / B) sum over layers of ||G_T - G_S||^2 / b^2, for
a weight w that was stated for batches of B: for features that are not negative the norm is at most
2 b, so that L / w would else fall as 1 / b. Widths, depths and sizes may differ: no adapter is
needed, and no label.

Relational: a number for a batch, not for a sample; in float32. Rows, not samples, have length 1, so
an image that doubles its features changes its own row. Of several processes, each compares the
images of its own.

Tung, Mori: arXiv:1907.09682. Differs from the paper: the weight follows the batch; where a batch
has the size it was stated for, the loss is the paper's. Of pre-activation networks (WRN), whose
stages end in a sum, we compare what leaves the next activation, public code the sum.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, LossTerms
from doublure.objectives.pairing import LAST, Compared, Layers, Pairs, pair_layers

CARD = Card(
    paper="Tung, Mori: Similarity-Preserving Knowledge Distillation, arXiv:1907.09682",
    needs=("features",),
    reported={
        "CIFAR-10 test error %, WRN-16-1 taught by WRN-40-1": 8.13,
        "the student alone": 8.74,
        "the teacher": 6.51,
        "CIFAR-100 accuracy, resnet56 -> resnet20, re-run by RepDistiller": 69.67,
        "soft targets, same source": 70.66,
    },
)


def similarities(features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch batch"]:
    """Return inner products of all pairs of samples, each row of length 1; an empty row stays 0."""
    rows = features.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


def similarity_preserving_loss(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """Return the mean squared difference of the two matrices: one number for the batch."""
    return (similarities(teacher) - similarities(student)).square().mean()


@dataclass(frozen=True, kw_only=True)
class SimilarityPreserving:
    """Objective: the similarities of a batch. Default: the paper's for CIFAR-10.

    Args:
        weight: of the loss, for batches of `batch_size`.
        batch_size: that the weight was stated for; it grows with the batch from there.
        layers: which are compared; the last stage by default.
    """

    weight: float = 3000.0
    batch_size: int = 128
    layers: Layers = LAST

    def __post_init__(self) -> None:
        for name in ("weight", "batch_size"):
            positive(name, getattr(self, name))

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> Compared:
        return Compared(pair_layers(self.layers, student, teacher, example), self._compare)

    def _compare(self, pairs: Pairs) -> LossTerms:
        each = [similarity_preserving_loss(ours, theirs) for ours, theirs in pairs]
        weight = self.weight * len(pairs[0][0]) / self.batch_size
        return {"similarity": weight * torch.stack(each).sum()}


PUBLISHED = {
    "cifar10": SimilarityPreserving(),
    "cifar100-benchmarks": SimilarityPreserving(batch_size=64),
}
