"""Weighted soft labels: a smaller weight on samples where the student is better than its teacher.

CE_s, CE_t: cross-entropies of student and teacher with the label, at T = 1, without gradient;
    w = 1 - exp(-CE_s / CE_t)         L = c T^2 w (- sum p log q), mean over the batch
p, q at temperature T. The ratio of losses separates bias from variance: where the student has a
much lower loss than its teacher, w is near 0.
"""

from dataclasses import dataclass
from typing import get_args

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch, LossTerms, Outputs
from doublure.objectives.hard_labels import LabelSource, class_labels, hard_label_loss

CARD = Card(
    paper="Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang: Rethinking Soft Labels for Knowledge "
    "Distillation: A Bias-Variance Tradeoff Perspective, arXiv:2102.00650",
    needs=("logits", "labels"),
    reported={
        "ImageNet top-1, ResNet-34 -> ResNet-18": 72.04,
        "ResNet-18 alone, same source": 69.75,
    },
)
# Avoids division by 0: a teacher that is certain and right has a loss of 0.
_EPS = 1e-7


def soft_label_weights(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Return w of each sample, in [0, 1], without gradient."""
    student_loss = hard_label_loss(student_logits.detach(), labels, 0.0)
    teacher_loss = hard_label_loss(teacher_logits.detach(), labels, 0.0)
    return 1 - (-student_loss / (teacher_loss + _EPS)).exp()


def weighted_soft_label_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, " batch"]:
    """Return T^2 w times the cross-entropy with the soft targets, of each sample, in nats."""
    p = (teacher_logits / temperature).softmax(-1)
    soft = -(p * F.log_softmax(student_logits / temperature, dim=-1)).sum(-1)
    return temperature**2 * soft_label_weights(student_logits, teacher_logits, labels) * soft


@dataclass(frozen=True, kw_only=True)
class WSLD:
    """Objective: soft targets with a weight per sample.

    Args:
        weight: c, the factor on the term; the hard labels that go with it have weight 1.
        temperature: divisor of both networks' logits.
        of: source of the labels in w: "batch", the labels, or "teacher", the teacher's top-1.
    """

    weight: float = 2.5
    temperature: float = 2.0
    of: LabelSource = "batch"

    def __post_init__(self) -> None:
        positive("weight", self.weight)
        positive("temperature", self.temperature)
        one_of("labels", self.of, get_args(LabelSource))

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> LossTerms:
        labels = class_labels(self.of, teacher, batch)
        loss = weighted_soft_label_loss(
            student.output.float(), teacher.output.float(), labels, self.temperature
        )
        return {"weighted_soft_labels": self.weight * loss.mean()}


PUBLISHED = {"imagenet": WSLD()}
