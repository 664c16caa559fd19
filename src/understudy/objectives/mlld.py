"""Multi-level logit distillation: samples, pairs of samples and pairs of classes, at once.

P, Q: probabilities of teacher and student at temperature T, batch x classes B x C.
    instance  T^2 KL(P || Q), summed over classes, mean over the batch
    batch     || Q Q^T - P P^T ||_F^2 / B
    class     || Q^T Q - P^T P ||_F^2 / C
L = w_i instance + w_b batch + w_c class, each the mean over the temperatures. The last two relate
the samples of a batch: their losses are scalars.
Differs from the paper: one view of an image; no confidence masks (in the published code they scale
whole terms by about a half); weights of 1, for which no source was read.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from understudy.cards import Card
from understudy.checks import positive
from understudy.objectives.soft_targets import soft_target_loss
from understudy.protocols import Batch, Terms, Trace

CARD = Card(
    paper="Jin, Wang, Lin: Multi-Level Logit Distillation, CVPR 2023",
    needs=("logits",),
)


def batch_loss(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Return the squared difference of the samples' products, over the number of samples."""
    return (student @ student.T - teacher @ teacher.T).square().sum() / len(student)


def class_loss(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Return the squared difference of the classes' products, over the number of classes."""
    return batch_loss(student.T, teacher.T)


@dataclass(frozen=True, kw_only=True)
class Mlld:
    """Objective: logits at three levels and several temperatures.

    Args:
        instance_weight: of each sample's divergence.
        batch_weight: of the products between samples.
        class_weight: of the products between classes.
        temperatures: over which each term is averaged.
    """

    instance_weight: float = 1.0
    batch_weight: float = 1.0
    class_weight: float = 1.0
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)

    def __post_init__(self) -> None:
        for name in ("instance_weight", "batch_weight", "class_weight"):
            positive(name, getattr(self, name))
        if not self.temperatures:
            raise ValueError("temperatures must not be empty")
        for temperature in self.temperatures:
            positive("temperature", temperature)

    def __call__(self, student: Trace, teacher: Trace, batch: Batch) -> Terms:
        ours, theirs = student.output.float(), teacher.output.float()

        def mean(loss: Callable[[float], Tensor]) -> Tensor:
            return torch.stack([loss(t) for t in self.temperatures]).mean()

        def of_probabilities(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            return mean(lambda t: loss((ours / t).softmax(-1), (theirs / t).softmax(-1)))

        instance = mean(lambda t: soft_target_loss(ours, theirs, t).mean())
        return {
            "mlld_instance": self.instance_weight * instance,
            "mlld_batch": self.batch_weight * of_probabilities(batch_loss),
            "mlld_class": self.class_weight * of_probabilities(class_loss),
        }
