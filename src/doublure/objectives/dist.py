"""DIST: correlate the student's probabilities with the teacher's, per sample and per class.

Correlation is weaker than equality: it suits a teacher much larger than its student.
p, q: probabilities of teacher and student at temperature T, batch x classes; r is Pearson's
correlation.
    inter   1 - mean over samples of r(q_b, p_b)
    intra   1 - mean over classes of r(q_.c, p_.c), over the batch
L = T^2 (beta inter + gamma intra). The intra term relates the samples of a batch: it is a scalar
and needs at least two samples.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, LossTerms, Outputs

CARD = Card(
    paper="Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher, "
    "arXiv:2205.10536",
    needs=("logits",),
    reported={
        "ImageNet top-1, ResNet-34 -> ResNet-18": 72.07,
        "the same, re-run by torchdistill": 71.95,
        "soft targets, re-run by torchdistill": 71.37,
    },
)
# The correlation of a constant row or column is 0; the bound keeps its gradient finite.
_EPS = 1e-8


def correlation(
    one: Float[Tensor, "rows columns"], other: Float[Tensor, "rows columns"]
) -> Float[Tensor, " rows"]:
    """Return Pearson's correlation of each row of one with the same row of the other."""
    one, other = (x - x.mean(-1, keepdim=True) for x in (one, other))
    norms = torch.linalg.vector_norm(one, dim=-1) * torch.linalg.vector_norm(other, dim=-1)
    correlations: Tensor = (one * other).sum(-1) / norms.clamp(min=_EPS)
    return correlations


def dist_losses(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return T^2 times the inter and the intra loss, two scalars of the batch."""
    q, p = ((x / temperature).softmax(-1) for x in (student_logits, teacher_logits))
    inter, intra = 1 - correlation(q, p).mean(), 1 - correlation(q.T, p.T).mean()
    return temperature**2 * inter, temperature**2 * intra


@dataclass(frozen=True, kw_only=True)
class DIST:
    """Objective: correlations of probabilities, by sample and by class.

    Args:
        beta: weight of the correlation over a sample's classes.
        gamma: weight of the correlation over a class's samples.
        temperature: divisor of both networks' logits.
    """

    beta: float = 1.0
    gamma: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta", "gamma", "temperature"):
            positive(name, getattr(self, name))

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> LossTerms:
        if len(student.output) < 2:
            raise ValueError("dist correlates over the batch and needs at least 2 samples in it")
        inter, intra = dist_losses(student.output.float(), teacher.output.float(), self.temperature)
        return {"dist_inter": self.beta * inter, "dist_intra": self.gamma * intra}


PUBLISHED = {"imagenet-torchdistill": DIST()}
