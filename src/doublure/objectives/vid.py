"""Variational information distillation: predict the teacher's layers with a learned variance.

s, t are maps after the activation of a stage. The loss is -log q(t | s) with q Gaussian: the mean
mu(s) comes from three 1 x 1 convolutions, each teacher channel has a variance v_c, with
v = softplus(a) + eps; both are trained with the student:
L = w sum over stages of mean [ (t - mu)^2 / (2 v) + log(v) / 2 ] over batch, channels, positions.
It bounds the mutual information of the two layers. The constant log(2 pi) / 2 is omitted, and the
loss can be negative. The larger map is average-pooled to the smaller.
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
from doublure.core.seeding import child
from doublure.nets.adapters import conv_adapter
from doublure.nets.features import device_of
from doublure.objectives.pairing import STAGES, Layers, PairedLoss, Pairs, pair_layers

CARD = Card(
    paper="Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge "
    "Transfer, arXiv:1904.05835",
    needs=("features",),
    reported={
        "CIFAR-100 accuracy, wrn40-2 -> wrn16-2, re-run by RepDistiller": 74.11,
        "wrn16-2 alone, same source": 73.26,
    },
)
# Initial and smallest variance, as in the public benchmarks.
_VARIANCE, _EPS = 5.0, 1e-5


def information_loss(
    mean: Float[Tensor, "batch channels h w"],
    variance: Float[Tensor, " channels"],
    teacher: Float[Tensor, "batch channels h w"],
) -> Float[Tensor, " batch"]:
    """Return the negative log-likelihood of each sample, a mean over elements, up to a constant."""
    spread = variance[:, None, None]
    return (0.5 * ((teacher - mean).square() / spread + spread.log())).flatten(1).mean(1)


class Regressor(nn.Sequential):
    """Predicts the mean of a teacher's map; `raw_variance` is the a of the equation."""

    def __init__(self, inputs: int, outputs: int, rng: torch.Generator) -> None:
        widths = ((inputs, outputs), (outputs, outputs), (outputs, outputs))
        first, second, third = (
            conv_adapter(*width, child(rng, i), norm=False) for i, width in enumerate(widths)
        )
        super().__init__(first, nn.ReLU(), second, nn.ReLU(), third)
        # The inverse of softplus.
        start = math.log(math.expm1(_VARIANCE - _EPS))
        self.raw_variance = nn.Parameter(torch.full((outputs,), start))

    @property
    def variance(self) -> Tensor:
        """The variance of each channel."""
        return F.softplus(self.raw_variance) + _EPS


@dataclass(frozen=True, kw_only=True)
class VID:
    """Objective: the likelihood of the teacher's layers at all stages.

    Args:
        weight: factor on the mean over elements, summed over stages.
        layers: layers to compare; the ends of all stages by default.
    """

    weight: float = 1.0
    layers: Layers = STAGES

    def __post_init__(self) -> None:
        positive("weight", self.weight)

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> PairedLoss:
        pairing = pair_layers(self.layers, student, teacher, example)
        regressors = [
            Regressor(pair.student.shape[0], pair.teacher.shape[0], child(rng, "adapter", i))
            for i, pair in enumerate(pairing.pairs)
        ]

        def terms(pairs: Pairs) -> LossTerms:
            losses = [
                information_loss(mean, regressor.variance, target).mean()
                for regressor, (mean, target) in zip(regressors, pairs, strict=True)
            ]
            return {"information": self.weight * torch.stack(losses).sum()}

        return PairedLoss(pairing, terms, regressors).to(device_of(student))


PUBLISHED = {"cifar100-benchmarks": VID()}
