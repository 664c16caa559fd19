"""Truncated targets: soft targets of the few classes that the teacher holds most likely.

Logits v (teacher), z (student); p = softmax(v/T), q = softmax(z/T); K the k classes of largest p.
    renormalised    KL of softmax(v_K / T) and softmax(z_K / T); silent about what lies outside of K
    partial         sum over K of p log(p/q); not a divergence, can be negative
    tail            the same and one class more, the rest: (1 - p_K) log((1 - p_K)/(1 - q_K))
"reverse" exchanges p and q; K stays the teacher's. Times T^2, averaged over the batch, in float32.
Gradient of the first, forward, in z: T (q_K - p_K), both renormalised, and exactly 0 outside of K.

Beside labels (weight 1 and 0.5) this repairs what strong augmentation does to them: where an
operation has destroyed what the label speaks of, the teacher, asked about the same view, says so.

Wei, Xiao, Xie, Zhang, Chen, Tian: arXiv:2003.11342, at second hand. How exactly it truncates, in
which direction, and at which T is not known; all readings are here, and the default is ours.
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


def likeliest(
    teacher_logits: Float[Tensor, "batch classes"], num_kept: int
) -> Int[Tensor, "batch kept"]:
    """Return the classes with the largest logits; of equal ones the first."""
    # topk breaks ties as it likes.
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
    kept = likeliest(teacher_logits, num_kept)
    ours, theirs = student_logits / temperature, teacher_logits / temperature
    if truncation == "renormalised":
        ours, theirs = ours.gather(1, kept), theirs.gather(1, kept)
    log_q, log_p = F.log_softmax(ours, dim=-1), F.log_softmax(theirs, dim=-1)
    if truncation == "tail":
        log_q, log_p = _with_rest(log_q, kept), _with_rest(log_p, kept)
    elif truncation == "partial":
        log_q, log_p = log_q.gather(1, kept), log_p.gather(1, kept)
    log_a, log_b = (log_p, log_q) if direction == "forward" else (log_q, log_p)
    return temperature**2 * (log_a.exp() * (log_a - log_b)).sum(-1)


def _with_rest(
    log_p: Float[Tensor, "batch classes"], kept: Int[Tensor, "batch kept"]
) -> Float[Tensor, "batch kept_and_rest"]:
    """Return the log-probabilities kept and, where any are left, that of all others together."""
    chosen = log_p.gather(1, kept)
    if kept.shape[1] == log_p.shape[1]:
        return chosen
    rest = log_p.scatter(1, kept, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, rest], 1)


@dataclass(frozen=True, kw_only=True)
class TruncatedTargets:
    """Objective: soft targets of the classes that the teacher holds most likely.

    Args:
        num_kept: how many; all of them where there are no more. More for stronger augmentation.
        temperature: by which both networks' logits are divided.
        truncation: what becomes of the others: "renormalised" leaves them out before the softmax,
            "partial" after it, "tail" makes them one class.
        direction: "forward" is KL(teacher || student), "reverse" KL(student || teacher).
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
                "num_kept must be at least 2 where one class is renormalised to 1, got "
                f"{self.num_kept}; use truncation='tail'"
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
