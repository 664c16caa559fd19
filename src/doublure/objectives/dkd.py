"""Decoupled knowledge distillation: separate weights for the target class and the other classes.

p, q: probabilities of teacher and student at temperature T; y the target class; p^, q^ the same
without y, renormalised.
    target       TCKD = KL((p_y, 1 - p_y) || (q_y, 1 - q_y))
    non-target   NCKD = KL(p^ || q^)
Soft targets are TCKD + (1 - p_y) NCKD: the more confident the teacher, the smaller the weight of
NCKD. Here L = T^2 (alpha TCKD + beta NCKD), averaged over the batch.
Differs from the paper: the warm-up is counted in steps, and there is none by default.
"""

from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch, LossTerms, Outputs
from doublure.objectives.hard_labels import LabelSource, class_labels
from doublure.objectives.warm_up import WarmUp
from doublure.objectives.weighted import Stateless

CARD = Card(
    paper="Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, arXiv:2203.08679",
    needs=("logits", "labels"),
    reported={
        "CIFAR-100 accuracy, resnet32x4 -> resnet8x4": 76.32,
        "soft targets, same pair": 73.33,
        "CIFAR-100 accuracy, wrn40-2 -> wrn16-2": 76.23,
        "ImageNet top-1, ResNet-34 -> ResNet-18": 71.70,
    },
)


def decoupled_losses(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    temperature: float,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return T^2 TCKD and T^2 NCKD of each sample, in nats."""
    target = F.one_hot(labels, student_logits.shape[-1]).bool()
    parts = []
    for logits in (student_logits, teacher_logits):
        logits = logits / temperature
        # log (p_y, 1 - p_y) is the log-softmax of two logits: that of y, and the log-sum-exp of all
        # the others.
        others = logits.masked_fill(target, -torch.inf)
        of_target = logits.gather(1, labels[:, None])[:, 0]
        pair = torch.stack((of_target, others.logsumexp(-1)), -1).log_softmax(-1)
        # log p^. At y both networks have 0 instead of -inf, so that y adds 0 to NCKD. A mask
        # instead of indexing: indexing by a mask makes the CPU wait for the GPU.
        rest = others.log_softmax(-1).masked_fill(target, 0.0)
        parts.append((pair, rest))
    (pair_q, rest_q), (pair_p, rest_p) = parts
    tckd = F.kl_div(pair_q, pair_p, reduction="none", log_target=True).sum(-1)
    nckd = F.kl_div(rest_q, rest_p, reduction="none", log_target=True).sum(-1)
    return temperature**2 * tckd, temperature**2 * nckd


@dataclass(frozen=True, kw_only=True)
class DKD:
    """Objective: decoupled soft targets.

    Args:
        alpha: weight of the target class.
        beta: weight of the other classes; 8 if the teacher is much more confident than the student,
            2 to 6 if they are close.
        temperature: divisor of both networks' logits.
        of: source of the target class: "batch", the labels, or "teacher", the teacher's top-1.
        warmup_steps: number of steps over which the terms rise from 0.
    """

    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0
    of: LabelSource = "batch"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "temperature"):
            positive(name, getattr(self, name))
        one_of("labels", self.of, get_args(LabelSource))
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> WarmUp:
        if self.of == "batch":
            class_labels(self.of, None, example)  # fails now instead of at the first step
        return WarmUp(Stateless(self._terms), self.warmup_steps)

    def _terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> LossTerms:
        labels = class_labels(self.of, teacher, batch)
        losses = decoupled_losses(
            student.output.float(), teacher.output.float(), labels, self.temperature
        )
        return {
            "dkd_target": self.alpha * losses[0].mean(),
            "dkd_others": self.beta * losses[1].mean(),
        }


PUBLISHED = {
    "cifar100-resnet32x4": DKD(),
    "cifar100-resnet56": DKD(beta=2.0),
    "cifar100-wrn-and-vgg": DKD(beta=6.0),
    "imagenet": DKD(beta=0.5, temperature=1.0),
}
