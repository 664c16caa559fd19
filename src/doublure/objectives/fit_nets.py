"""FitNets: match a middle layer of the teacher (the hint) through a learned regressor.

L = w mean (r(f_s) - f_t)^2 over batch, channels and positions; f_s, f_t are the maps of a middle
stage after its activation, r is a 1 x 1 convolution with BatchNorm, trained with the student. The
mean over all elements is small, hence a weight in the hundreds. The larger map is average-pooled to
the smaller.
Differs from the paper: the hint is matched together with the other terms from the first step, as in
the public benchmarks, and not in a separate stage; r has 1 x 1 kernels and BatchNorm.
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
from doublure.objectives.pairing import MIDDLE, Layers, PairedLoss, pair_layers

CARD = Card(
    paper="Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets, "
    "arXiv:1412.6550",
    needs=("features",),
    reported={
        "CIFAR-100 accuracy, resnet56 -> resnet20, re-run by RepDistiller": 69.21,
        "resnet20 alone, same source": 69.06,
    },
)


def hint_loss(
    regressed: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, " batch"]:
    """Return the mean squared difference of each sample's features."""
    return F.mse_loss(regressed, teacher, reduction="none").flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class FitNets:
    """Objective: hints at a middle stage.

    Args:
        weight: factor on the mean over elements.
        layers: layers to compare; the middle stage by default.
    """

    weight: float = 100.0
    layers: Layers = MIDDLE

    def __post_init__(self) -> None:
        positive("weight", self.weight)

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> PairedLoss:
        pairing = pair_layers(self.layers, student, teacher, example)
        regressors = [
            conv_adapter(pair.student.shape[0], pair.teacher.shape[0], child(rng, "adapter", i))
            for i, pair in enumerate(pairing.pairs)
        ]
        loss = PairedLoss(
            pairing,
            lambda pairs: {
                "hints": self.weight * torch.stack([hint_loss(*p).mean() for p in pairs]).sum()
            },
            regressors,
        )
        return loss.to(device_of(student))


PUBLISHED = {"cifar100-benchmarks": FitNets()}
