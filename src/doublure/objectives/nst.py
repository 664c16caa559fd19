"""Neuron selectivity transfer: match the distribution of the channels' spatial patterns.

f_c is channel c of a sample's map after a stage's activation, flattened and of unit length.
The channels of each network are samples of a distribution; the two distributions are compared by
the squared maximum mean discrepancy with the kernel k(x, y) = (x . y)^2:
L = w sum over stages of mean_batch [ mean k(t, t') + mean k(s, s') - 2 mean k(s, t) ], means over
all pairs of channels. The larger map is average-pooled to the smaller; widths may differ.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, LossTerms
from doublure.nets.adapters import to_smaller
from doublure.objectives.pairing import STAGES, Layers, PairedLoss, Pairs, pair_layers

CARD = Card(
    paper="Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, "
    "arXiv:1707.01219",
    needs=("features",),
)


def selectivity_loss(
    student: Float[Tensor, "batch inputs h w"], teacher: Float[Tensor, "batch outputs y x"]
) -> Float[Tensor, " batch"]:
    """Return the squared discrepancy of each sample's channels."""
    student_units, teacher_units = (
        F.normalize(x.flatten(2), dim=2) for x in to_smaller(student, teacher)
    )
    if student_units.shape[2] < min(student_units.shape[1], teacher_units.shape[1]):
        # The same value from products of positions, which is cheaper where a deep stage has fewer
        # positions than channels: sum_ij (x_i . y_j)^2 = <sum_i x_i x_i', sum_j y_j y_j'>.
        grams = [x.transpose(1, 2) @ x / x.shape[1] for x in (student_units, teacher_units)]
        return (grams[0] - grams[1]).square().sum((1, 2))

    def mean_kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.transpose(1, 2)).square().mean((1, 2))

    return (
        mean_kernel(teacher_units, teacher_units)
        + mean_kernel(student_units, student_units)
        - 2 * mean_kernel(student_units, teacher_units)
    )


@dataclass(frozen=True, kw_only=True)
class NST:
    """Objective: the selectivity of neurons at all stages.

    Args:
        weight: factor on the squared discrepancy, summed over stages.
        layers: layers to compare; the ends of all stages by default.
    """

    weight: float = 50.0
    layers: Layers = STAGES

    def __post_init__(self) -> None:
        positive("weight", self.weight)

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> PairedLoss:
        return PairedLoss(pair_layers(self.layers, student, teacher, example), self._terms)

    def _terms(self, pairs: Pairs) -> LossTerms:
        losses = [selectivity_loss(*pair).mean() for pair in pairs]
        return {"selectivity": self.weight * torch.stack(losses).sum()}


PUBLISHED = {"cifar100-benchmarks": NST()}
