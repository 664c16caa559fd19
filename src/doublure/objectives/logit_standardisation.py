"""Logit standardisation: soft targets of z-scores, free of the logits' offset and spread.

Z(x) = (x - mean x) / (std x + eps) over a sample's classes, std with C - 1;
L = w T^2 KL(softmax(Z(v) / T) || softmax(Z(z) / T)), v of the teacher, z of the student; summed
over classes, averaged over the batch, in float32. The student need not reach the teacher's range:
logits of any scale and shift agree.
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
# Of a sample whose logits are all one.
_EPS = 1e-7


def standardised(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Return each sample's logits with mean 0 and standard deviation 1."""
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (logits.std(-1, keepdim=True) + _EPS)


@dataclass(frozen=True, kw_only=True)
class LogitStandardisation:
    """Objective: soft targets of standardised logits.

    Args:
        weight: of the term; 9 beside hard labels of weight 1.
        temperature: by which both networks' standardised logits are divided.
    """

    weight: float = 9.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        positive("weight", self.weight)
        positive("temperature", self.temperature)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> LossTerms:
        ours, theirs = (standardised(outputs.output.float()) for outputs in (student, teacher))
        loss = soft_target_loss(ours, theirs, self.temperature)
        return {"standardised_targets": self.weight * loss.mean()}
