"""Multi-level logit distillation: match samples, pairs of samples and pairs of classes together.

P, Q: probabilities of teacher and student at temperature T, batch x classes B x C; n = B / C.
    instance  T^2 KL(P || Q), summed over classes, mean over the batch
    batch     (N / n) || Q Q^T - P P^T ||_F^2 / B
    class     (N / n)^2 || Q^T Q - P^T P ||_F^2 / C
L = w_i instance + w_b batch + w_c class, each the mean over the temperatures. The last two relate
the samples of a batch: their losses are scalars. N is the images per class of the paper's batches.
Why the factors N / n: for a teacher with one-hot probabilities and balanced classes,
|| P P^T ||^2 / B is n and || P^T P ||^2 / C is n^2. Without the factors, a batch of 128 images of
10 classes would give the class term 400 times the weight it has in the paper's batches of 64 images
of 100 classes. For n = N the terms are the paper's.
Differs from the paper: the weights of these two terms depend on the batch; one view of an image; no
confidence masks (in the published code they scale whole terms by about a half); weights of 1, where
that code has 0.9 for each temperature's terms and 0.1 for the labels.
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
    """Return the squared difference of the Gram matrices of samples, over the number of samples."""
    return (student @ student.T - teacher @ teacher.T).square().sum() / len(student)


def class_loss(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Return the squared difference of the Gram matrices of classes, over the number of classes."""
    return batch_loss(student.T, teacher.T)


@dataclass(frozen=True, kw_only=True)
class MLLD:
    """Objective: logits at three levels and several temperatures.

    Args:
        instance_weight: weight of the divergence of each sample.
        batch_weight: weight of the Gram matrices of samples.
        class_weight: weight of the Gram matrices of classes.
        images_per_class: mean number N of images per class in the batches for which these two
            weights were published.
        temperatures: each term is the mean over these temperatures.
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
        student_logits, teacher_logits = student.output.float(), teacher.output.float()

        def mean(loss: Callable[[float], Tensor]) -> Tensor:
            return torch.stack([loss(t) for t in self.temperatures]).mean()

        def of_probabilities(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            return mean(
                lambda t: loss((student_logits / t).softmax(-1), (teacher_logits / t).softmax(-1))
            )

        samples, classes = student_logits.shape
        size = self.images_per_class * classes / samples
        instance = mean(lambda t: soft_target_loss(student_logits, teacher_logits, t).mean())
        return {
            "mlld_instance": self.instance_weight * instance,
            "mlld_batch": size * self.batch_weight * of_probabilities(batch_loss),
            "mlld_class": size**2 * self.class_weight * of_probabilities(class_loss),
        }
