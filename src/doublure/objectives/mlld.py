"""Multi-level logit distillation: samples, pairs of samples and pairs of classes, at once.

P, Q: probabilities of teacher and student at temperature T, batch x classes B x C; n = B / C.
    instance  T^2 KL(P || Q), summed over classes, mean over the batch
    batch     (N / n) || Q Q^T - P P^T ||_F^2 / B
    class     (N / n)^2 || Q^T Q - P^T P ||_F^2 / C
L = w_i instance + w_b batch + w_c class, each the mean over the temperatures. The last two relate
the samples of a batch: their losses are scalars. For a teacher that is sure of its answers, and of
each class equally often, || P P^T ||^2 / B is n and || P^T P ||^2 / C is n^2: batches of 128 images
of ten classes would weigh classes 400 times as much as the paper's 64 images of a hundred. Where n
is the paper's N, the terms are the paper's.
Differs from the paper: the two terms follow the batch; one view of an image; no confidence masks
(in the published code they scale whole terms by about a half); weights of 1, where that code has
0.9 of each temperature's terms to 0.1 of the labels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, LossTerms, Outputs
from doublure.objectives.soft_targets import soft_target_loss

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
class MLLD:
    """Objective: logits at three levels and several temperatures.

    Args:
        instance_weight: of each sample's divergence.
        batch_weight: of the products between samples.
        class_weight: of the products between classes.
        images_per_class: in a batch that these two were stated for, on average.
        temperatures: over which each term is averaged.
    """

    instance_weight: float = 1.0
    batch_weight: float = 1.0
    class_weight: float = 1.0
    images_per_class: float = 64 / 100
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)

    def __post_init__(self) -> None:
        for name in ("instance_weight", "batch_weight", "class_weight", "images_per_class"):
            positive(name, getattr(self, name))
        if not self.temperatures:
            raise ValueError("temperatures must not be empty")
        for temperature in self.temperatures:
            positive("temperature", temperature)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> LossTerms:
        ours, theirs = student.output.float(), teacher.output.float()

        def mean(loss: Callable[[float], Tensor]) -> Tensor:
            return torch.stack([loss(t) for t in self.temperatures]).mean()

        def of_probabilities(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            return mean(lambda t: loss((ours / t).softmax(-1), (theirs / t).softmax(-1)))

        samples, classes = ours.shape
        size = self.images_per_class * classes / samples
        instance = mean(lambda t: soft_target_loss(ours, theirs, t).mean())
        return {
            "mlld_instance": self.instance_weight * instance,
            "mlld_batch": size * self.batch_weight * of_probabilities(batch_loss),
            "mlld_class": size**2 * self.class_weight * of_probabilities(class_loss),
        }
