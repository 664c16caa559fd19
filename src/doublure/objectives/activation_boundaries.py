"""Activation boundaries: match the sign of the teacher's pre-activations, not their size.

Values that enter the activation of a stage: t from the teacher, s = r(student's values), where the
connector r (1 x 1 convolution, BatchNorm) can form any linear combination of student channels. Per
element
    l = max(0, m - s)^2 where t > 0,    max(0, m + s)^2 elsewhere
It is at least m^2 where the two signs differ, and 0 where s has the right sign by the margin m.
L = w sum over layers of 2^(i - L) (sum over channels and positions, mean over the batch): the
deepest of the L layers has factor 1, and each earlier layer half the factor of the next.

This is an initialisation: a separate stage trains the layers below the classifier, and it needs
images only; `recipes.activation_boundary` then trains with soft targets. The loss is not 0 for a
student equal to its teacher, because the teacher's own values can lie within the margin.

Heo, Lee, Yun, Choi: arXiv:1811.03233, following the authors' code. Differs from the paper:
connectors are used also where widths are equal, so that the margin is one standard deviation
everywhere; the teacher's BatchNorm statistics do not change; if two maps differ in size, the larger
is average-pooled. For pre-activation networks (WRN) the values are the outputs of the next
BatchNorm, as in the authors' code. Where no layer has the pre-activation as its input or output,
the loss compares the activation's output: the teacher's signs are the same, and the student is
compared by its activated values.
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
from doublure.objectives.pairing import STAGES, Layers, PairedLoss, Pairs, pair_layers

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
    """Return the squared hinge loss of each element; the teacher gives only the sign."""
    side = torch.where(teacher > 0, 1.0, -1.0)
    return (margin - side * student).clamp(min=0).square()


def same_side(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Bool[Tensor, "batch ..."]:
    """Return for each element whether both are active or both inactive; zero is inactive."""
    return (student > 0) == (teacher > 0)


def balanced_agreement(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """Return the balanced accuracy of the student's signs; 1/2 is chance.

    It is the mean of two shares: among the teacher's active neurons, and among its inactive ones.
    The plain share misleads: with 90 % inactive neurons, a student that is never active scores 0.9.
    """
    active = (teacher > 0).float()
    same = same_side(student, teacher).float()
    # Masks instead of indexing: indexing by a mask makes the CPU wait for the GPU.
    sides = [(same * side).sum() / side.sum().clamp(min=1) for side in (active, 1 - active)]
    return torch.stack(sides).mean()


@dataclass(frozen=True, kw_only=True)
class ActivationBoundaries:
    """Objective: activation boundaries of the stage ends. Default: the paper's setting for CIFAR.

    Args:
        weight: factor on the sum over layers.
        margin: distance from zero that each student value must keep.
        reduction: over channels and positions: "sum", as published, grows with the size of the
            maps; "mean" does not.
        layers: layers to compare, in order from the input; all stage ends by default.
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
    ) -> PairedLoss:
        pairing = pair_layers(self.layers, student, teacher, example, before_activation=True)
        connectors = [
            conv_adapter(pair.student.shape[0], pair.teacher.shape[0], child(rng, "connector", i))
            for i, pair in enumerate(pairing.pairs)
        ]
        loss = PairedLoss(pairing, self._compare, connectors, measure=_agreements)
        return loss.to(device_of(student))

    def _compare(self, pairs: Pairs) -> LossTerms:
        total = torch.zeros((), device=pairs[0][0].device)
        for i, (student, teacher) in enumerate(pairs):
            losses = boundary_loss(student, teacher, self.margin).flatten(1)
            losses = losses.sum(1) if self.reduction == "sum" else losses.mean(1)
            total = total + 2.0 ** (i + 1 - len(pairs)) * losses.mean()
        return {"activation_boundaries": self.weight * total}


def _agreements(pairs: Pairs) -> dict[str, Tensor]:
    """Return the balanced agreement of each layer, in order from the input."""
    return {f"boundaries_{i + 1}": balanced_agreement(*pair) for i, pair in enumerate(pairs)}


PUBLISHED = {
    "cifar": ActivationBoundaries(),
    "imagenet-teacher": ActivationBoundaries(weight=0.001),
}
