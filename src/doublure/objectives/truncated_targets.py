"""Truncated targets: soft targets of the classes with the largest teacher probabilities.

Logits v (teacher), z (student); p = softmax(v/T), q = softmax(z/T); K the k classes of largest p.
    renormalised    KL of softmax(v_K / T) and softmax(z_K / T); other classes are ignored
    partial         sum over K of p log(p/q); not a divergence, can be negative
    tail            partial, plus one class for the rest: (1 - p_K) log((1 - p_K)/(1 - q_K)),
                    where p_K, q_K are the sums of p and q over K
"reverse" exchanges p and q; K stays the teacher's. Times T^2, averaged over the batch, in float32.
Gradient of renormalised, forward, in z: T (q_K - p_K), both renormalised, and exactly 0 outside K.

Together with labels (weights 0.5 and 1) this corrects labels under strong augmentation: if an
operation has destroyed the labelled object, the teacher's output on the same view reflects it.

Wei, Xiao, Xie, Zhang, Chen, Tian: arXiv:2003.11342, from secondary sources. The exact truncation,
its direction and T are not known; all variants are implemented, and the choice of default is ours.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch, Outputs

CARD = Card(
    paper="Wei, Xiao, Xie, Zhang, Chen, Tian: Circumventing Outliers of AutoAugment with "
    "Knowledge Distillation, arXiv:2003.11342",
    needs=("logits",),
    reported={
        "ImageNet top-1, EfficientNet-B7 with AutoAugment, at second hand": 84.9,
        "the same with a teacher": 85.5,
    },
)

Truncation = Literal["renormalised", "partial", "tail"]
Direction = Literal["forward", "reverse"]


def top_classes(
    teacher_logits: Float[Tensor, "batch classes"], num_kept: int
) -> Int[Tensor, "batch kept"]:
    """Return the classes with the largest logits; of equal ones, the first."""
    # A stable sort, because the order of ties in topk is undefined.
    return teacher_logits.argsort(dim=-1, descending=True, stable=True)[:, :num_kept]


def truncated_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    num_kept: int,
    temperature: float,
    truncation: Truncation,
    direction: Direction,
) -> Float[Tensor, " batch"]:
    """Return T^2 times the truncated divergence of each sample, in nats."""
    kept = top_classes(teacher_logits, num_kept)
    student_scaled, teacher_scaled = student_logits / temperature, teacher_logits / temperature
    if truncation == "renormalised":
        student_scaled, teacher_scaled = (
            student_scaled.gather(1, kept),
            teacher_scaled.gather(1, kept),
        )
    log_q, log_p = F.log_softmax(student_scaled, dim=-1), F.log_softmax(teacher_scaled, dim=-1)
    if truncation == "tail":
        log_q, log_p = _with_rest(log_q, kept), _with_rest(log_p, kept)
    elif truncation == "partial":
        log_q, log_p = log_q.gather(1, kept), log_p.gather(1, kept)
    log_a, log_b = (log_p, log_q) if direction == "forward" else (log_q, log_p)
    return temperature**2 * (log_a.exp() * (log_a - log_b)).sum(-1)


def _with_rest(
    log_p: Float[Tensor, "batch classes"], kept: Int[Tensor, "batch kept"]
) -> Float[Tensor, "batch kept_and_rest"]:
    """Return the kept log-probabilities and, if other classes exist, that of their sum."""
    chosen = log_p.gather(1, kept)
    if kept.shape[1] == log_p.shape[1]:
        return chosen
    rest = log_p.scatter(1, kept, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, rest], 1)


@dataclass(frozen=True, kw_only=True)
class TruncatedTargets:
    """Objective: soft targets of the classes with the largest teacher probabilities.

    Args:
        num_kept: number of classes, at most all; stronger augmentation needs more.
        temperature: divisor of both networks' logits.
        truncation: treatment of the other classes: "renormalised" removes them before the softmax,
            "partial" after it, "tail" merges them into one class.
        direction: "forward" is KL(teacher || student), "reverse" is KL(student || teacher).
    """

    num_kept: int = 5
    temperature: float = 1.0
    truncation: Truncation = "renormalised"
    direction: Direction = "forward"

    def __post_init__(self) -> None:
        for name in ("num_kept", "temperature"):
            positive(name, getattr(self, name))
        one_of("truncation", self.truncation, get_args(Truncation))
        one_of("direction", self.direction, get_args(Direction))
        if self.num_kept < 2 and self.truncation == "renormalised":
            raise ValueError(
                "num_kept must be at least 2 for truncation='renormalised', since one class alone "
                f"is renormalised to 1, got {self.num_kept}; use truncation='tail'"
            )

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = truncated_loss(
            student.output.float(),
            teacher.output.float(),
            min(self.num_kept, teacher.output.shape[-1]),
            self.temperature,
            self.truncation,
            self.direction,
        )
        return {"truncated_targets": loss.mean()}


PUBLISHED = {
    "imagenet": TruncatedTargets(),
    "re-run": TruncatedTargets(temperature=5.0, direction="reverse"),
}
