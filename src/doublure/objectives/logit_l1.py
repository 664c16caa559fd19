"""Logit L1: match the teacher's raw outputs, by the mean absolute difference.

Outputs v (teacher), z (student) with n values per sample (classes, or classes x pixels):

    L = (1/n) sum_i |v_i - z_i|

The gradient is sign(z - v) / n: it does not shrink as the student approaches the teacher, while the
gradients of KL and squared error do, so that an adversarial generator keeps a training signal.
Unlike soft targets, the loss changes when a constant is added to all logits.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.protocols import Batch, Outputs

CARD = Card(
    paper=(
        "Fang, Song, Shen, Wang, Chen, Song: Data-Free Adversarial Distillation, arXiv:1912.11006"
    ),
    needs=("logits",),
)


def logit_l1_loss(
    student_outputs: Float[Tensor, " batch *outputs"],
    teacher_outputs: Float[Tensor, " batch *outputs"],
) -> Float[Tensor, " batch"]:
    """Return the mean absolute difference of each sample's outputs."""
    return (student_outputs - teacher_outputs).abs().flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class LogitL1:
    """Objective: mean absolute difference from the teacher's outputs."""

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = logit_l1_loss(student.output.float(), teacher.output.float())
        return {"logit_l1": loss.mean()}
