"""Activation boundaries: on which side of zero each neuron of the teacher is, not how far.

Values that enter the activation of a stage: t of the teacher, s = r(student's) through a connector
r (1 x 1 convolution, BatchNorm), which may form any hyperplane of student neurons. Per element
    l = max(0, m - s)^2 where t > 0,    max(0, m + s)^2 elsewhere
which is at least m^2 where the two states differ, and 0 where s is right by the margin m.
L = w sum over layers of 2^(i - L) (sum over channels and places, mean over the batch): the deepest
of the L layers counts 1, each before it half as much.

An initialisation: it trains what is below the classifier, in a stage of its own, from images alone;
`recipes.activation_boundary` goes on with soft targets. Agreement does not score 0, since margins
are to be kept also by the teacher's own values.

Heo, Lee, Yun, Choi: arXiv:1811.03233, by its authors' code. Differs from the paper: connectors
also where widths are equal, so that the margin is one deviation everywhere; the teacher's BatchNorm
statistics stay; of maps of two sizes the larger is averaged down. Of pre-activation networks (WRN)
the values are those of the next BatchNorm, as in the authors' code. Where no layer gives or takes
what enters an activation, what leaves it is compared: the teacher's sides are the same, the
student's hyperplanes are those of what it passes on.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch, LossTerms
from doublure.core.seeding import child
from doublure.nets.adapters import conv_adapter
from doublure.nets.features import device_of
from doublure.objectives.pairing import STAGES, Compared, Layers, Pairs, pair_layers

CARD = Card(
    paper="Heo, Lee, Yun, Choi: Knowledge Transfer via Distillation of Activation Boundaries "
    "Formed by Hidden Neurons, arXiv:1811.03233",
    needs=("features",),
    reported={
        "CIFAR-100 accuracy, resnet56 -> resnet20, re-run by RepDistiller": 69.47,
        "soft targets, same source": 70.66,
        "CIFAR-100 accuracy, ResNet-50 -> MobileNetV2, re-run by RepDistiller": 67.20,
        "soft targets, same source, MobileNetV2": 67.35,
    },
)

Reduction = Literal["sum", "mean"]


def boundary_loss(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."], margin: float
) -> Float[Tensor, "batch ..."]:
    """Return the squared hinge of each element; the teacher's counts by its sign alone."""
    side = torch.where(teacher > 0, 1.0, -1.0)
    return (margin - side * student).clamp(min=0).square()


def agreeing(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Bool[Tensor, "batch ..."]:
    """Return which neurons are on the same side; zero counts as inactive."""
    return (student > 0) == (teacher > 0)


def balanced_agreement(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """Return the mean of the shares of active and of inactive neurons that agree; 1/2 is chance.

    Of a layer nine tenths inactive, a student that is never active has nine tenths in common.
    """
    active = (teacher > 0).float()
    same = agreeing(student, teacher).float()
    # Not by indexing, which on a GPU waits for the number of places.
    sides = [(same * side).sum() / side.sum().clamp(min=1) for side in (active, 1 - active)]
    return torch.stack(sides).mean()


@dataclass(frozen=True, kw_only=True)
class ActivationBoundaries:
    """Objective: activation boundaries of the stage ends. Default: the paper's for CIFAR.

    Args:
        weight: of the sum over layers.
        margin: by which a neuron is to be on its side.
        reduction: "sum" over channels and places as published, which grows with the maps; or
            their "mean".
        layers: which are compared, from the input on; all stage ends by default.
    """

    weight: float = 0.003
    margin: float = 1.0
    reduction: Reduction = "sum"
    layers: Layers = STAGES

    def __post_init__(self) -> None:
        for name in ("weight", "margin"):
            positive(name, getattr(self, name))
        one_of("reduction", self.reduction, get_args(Reduction))

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> Compared:
        pairing = pair_layers(self.layers, student, teacher, example, before_activation=True)
        connectors = [
            conv_adapter(pair.student.shape[0], pair.teacher.shape[0], child(rng, "connector", i))
            for i, pair in enumerate(pairing.pairs)
        ]
        loss = Compared(pairing, self._compare, connectors, measure=_agreements)
        return loss.to(device_of(student))

    def _compare(self, pairs: Pairs) -> LossTerms:
        total = torch.zeros((), device=pairs[0][0].device)
        for i, (ours, theirs) in enumerate(pairs):
            each = boundary_loss(ours, theirs, self.margin).flatten(1)
            each = each.sum(1) if self.reduction == "sum" else each.mean(1)
            total = total + 2.0 ** (i + 1 - len(pairs)) * each.mean()
        return {"activation_boundaries": self.weight * total}


def _agreements(pairs: Pairs) -> dict[str, Tensor]:
    """Return the balanced agreement of each layer, from the input on."""
    return {f"boundaries_{i + 1}": balanced_agreement(*pair) for i, pair in enumerate(pairs)}


PUBLISHED = {
    "cifar": ActivationBoundaries(),
    "imagenet-teacher": ActivationBoundaries(weight=0.001),
}
