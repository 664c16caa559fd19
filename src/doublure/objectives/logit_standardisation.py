"""Logit standardisation: soft targets of z-scored logits, independent of their offset and scale.

Z(x) = (x - mean x) / (std x + eps) over a sample's classes, std with C - 1;
L = w T^2 KL(softmax(Z(v) / T) || softmax(Z(z) / T)), v of the teacher, z of the student; summed
over classes, averaged over the batch, in float32. The student does not need the teacher's range of
logits: the loss is 0 for any scaled and shifted copy of them.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, LossTerms, Outputs
from doublure.objectives.soft_targets import soft_target_loss

CARD = Card(
    paper="Sun, Ren, Li, Wang, Cao: Logit Standardization in Knowledge Distillation, "
    "arXiv:2403.01427",
    needs=("logits",),
    reported={
        "ImageNet top-1, ResNet-34 -> ResNet-18": 71.42,
        "the same, re-run by torchdistill": 71.23,
    },
)
# Avoids division by 0 for a sample whose logits are all equal.
_EPS = 1e-7


def standardise(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Return each sample's logits with mean 0 and standard deviation 1."""
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (logits.std(-1, keepdim=True) + _EPS)


@dataclass(frozen=True, kw_only=True)
class LogitStandardisation:
    """Objective: soft targets of standardised logits.

    Args:
        weight: factor on the term; 9 goes with hard labels of weight 1.
        temperature: divisor of both networks' standardised logits.
    """

    weight: float = 9.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        positive("weight", self.weight)
        positive("temperature", self.temperature)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> LossTerms:
        student_scores, teacher_scores = (
            standardise(outputs.output.float()) for outputs in (student, teacher)
        )
        loss = soft_target_loss(student_scores, teacher_scores, self.temperature)
        return {"standardised_targets": self.weight * loss.mean()}
