"""Correlation congruence: match the kernel matrix of a batch with the teacher's.

Unit vectors x_i; k(x, y) = exp(-g ||x - y||^2), by its Taylor series up to order P. Since
||x - y||^2 = 2 - 2 x . y for unit vectors,
k(x, y) = exp(-2 g) sum_{n=0..P} (2 g)^n / n! (x . y)^n.
L = w (1 / batch^2) || K_s - K_t ||_F^2. It relates samples of a batch: the loss is a scalar.
Differs from the paper: no linear layers before the kernel, since kernels of vectors of different
widths can be compared; the weight is ours.
"""

import math
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
    paper="Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang: Correlation Congruence for Knowledge "
    "Distillation, arXiv:1904.01802",
    needs=("features",),
)


def taylor_kernel(
    vectors: Float[Tensor, "batch dim"], gamma: float, order: int
) -> Float[Tensor, "batch batch"]:
    """Return the Gaussian kernel of the normalised vectors, by its Taylor series up to `order`."""
    units = F.normalize(vectors)
    cosines = units @ units.T
    terms = [(2 * gamma * cosines).pow(n) / math.factorial(n) for n in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(0)


def congruence_loss(
    student: Float[Tensor, "batch inputs"],
    teacher: Float[Tensor, "batch outputs"],
    gamma: float,
    order: int,
) -> Float[Tensor, ""]:
    """Return the mean squared difference of the kernel matrices; a scalar of the batch."""
    return F.mse_loss(taylor_kernel(student, gamma, order), taylor_kernel(teacher, gamma, order))


@dataclass(frozen=True, kw_only=True)
class CorrelationCongruence:
    """Objective: kernels between the samples of a batch.

    Args:
        weight: factor on the mean over all pairs of samples.
        gamma: parameter g of the Gaussian kernel.
        order: order of its Taylor series.
        layers: layers to compare; the input of the classifier by default.
    """

    weight: float = 100.0
    gamma: float = 0.4
    order: int = 2
    layers: Layers = FEATURES

    def __post_init__(self) -> None:
        for name in ("weight", "gamma", "order"):
            positive(name, getattr(self, name))

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> PairedLoss:
        pairing = pair_layers(self.layers, student, teacher, example)
        return PairedLoss(pairing, self._terms, vectors=True)

    def _terms(self, pairs: Pairs) -> LossTerms:
        losses = [congruence_loss(*pair, self.gamma, self.order) for pair in pairs]
        return {"congruence": self.weight * torch.stack(losses).sum()}
