"""Stage outputs: match the output of every stage, by its relative squared error.

    L = w sum over stages of  mean (r(f_s) - f_t)^2 / var(f_t)

f_s, f_t are the maps after the activation of the paired stages; mean and variance are over batch,
channels and positions. A student whose maps equal the teacher's mean everywhere has a loss of 1 per
stage at any scale of the maps, so that one weight suits all stages and networks. r is a 1 x 1
convolution, trained with the student, if the numbers of channels differ, and the identity
otherwise. The larger map is average-pooled to the smaller. The variance has no gradient.

This is the hint of FitNets at every stage instead of one, divided by the variance.
Differs from the paper: the above; and the hints are matched together with the other terms from the
first step, where the paper first trains the layers up to its hint.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch
from doublure.core.seeding import child
from doublure.nets.adapters import conv_adapter
from doublure.nets.features import device_of
from doublure.objectives.pairing import STAGES, Layers, Pair, PairedLoss, pair_layers

CARD = Card(
    paper="Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets, "
    "arXiv:1412.6550",
    needs=("features",),
)

# Lower bound of the variance: that of a dead stage is 0.
_LEAST_VARIANCE = 1e-8


def relative_error(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """Return the mean squared difference divided by the variance of the teacher's values."""
    variance = teacher.detach().var(correction=0).clamp(min=_LEAST_VARIANCE)
    return F.mse_loss(student, teacher) / variance


@dataclass(frozen=True, kw_only=True)
class StageOutputs:
    """Objective: relative squared errors of the stage ends, summed.

    Args:
        weight: factor on the sum.
        layers: layers to compare; all stage ends by default.
    """

    weight: float = 1.0
    layers: Layers = STAGES

    def __post_init__(self) -> None:
        positive("weight", self.weight)

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> PairedLoss:
        pairing = pair_layers(self.layers, student, teacher, example)
        adapters = [
            _adapter(pair, child(rng, "adapter", i)) for i, pair in enumerate(pairing.pairs)
        ]
        loss = PairedLoss(
            pairing,
            lambda pairs: {
                "stage_outputs": self.weight
                * torch.stack([relative_error(*p) for p in pairs]).sum()
            },
            adapters,
        )
        return loss.to(device_of(student))


def _adapter(pair: Pair, rng: torch.Generator) -> nn.Module:
    inputs, outputs = pair.student.shape[0], pair.teacher.shape[0]
    return nn.Identity() if inputs == outputs else conv_adapter(inputs, outputs, rng, norm=False)
