"""Divergences between the class probabilities of teacher and student, beyond soft targets.

Logits v (teacher), z (student); p = softmax(v/T), q = softmax(z/T), M = s p + (1 - s) q:
    forward           KL(p || q) = sum p log(p/q)      gradient in z:  (q - p) / T
    reverse           KL(q || p) = sum q log(q/p)      q (log(q/p) - KL) / T
    jensen-shannon    s KL(p || M) + (1 - s) KL(q || M)
    skewed-forward    KL(p || M)
    skewed-reverse    KL(q || M)
Conventions: summed over classes, averaged over the batch, times T^2, in float32. As s -> 0,
jensen-shannon / s and skewed-forward become forward; as s -> 1, jensen-shannon / (1 - s) and
skewed-reverse become reverse. In these limits the gradients of the three mixtures vanish; we do not
rescale them.

Forward covers modes: it is large where the teacher's probability is high and the student's is low.
Reverse seeks modes: a class with student probability near 0 has a gradient near 0. Reverse is
infinite where a teacher's logit is -inf; the mixtures are always finite.

Sun, Cross: arXiv:2008.10077; we read only the abstract. s is the beta of generalised
knowledge distillation (Agarwal et al., arXiv:2306.13649) and the alpha of skewed divergences (Ko
et al., arXiv:2402.03898), where skewed-reverse has s = 1 - alpha.
Differs from the paper: divergences of classes, not of sequences, so no prefix is sampled.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch, Outputs

CARD = Card(
    paper="Sun, Cross: Learn to Talk via Proactive Knowledge Transfer, arXiv:2008.10077",
    needs=("logits",),
    reported={
        "BLEU gained by reverse over forward, translation, at least": 0.7,
        "the same, at most": 1.1,
    },
)

Form = Literal["forward", "reverse", "jensen-shannon", "skewed-forward", "skewed-reverse"]


def relative_entropy(
    log_a: Float[Tensor, "batch classes"], log_b: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Return KL(a || b) of each sample, in nats, from log-probabilities; 0 log 0 is 0."""
    terms = log_a.exp() * (log_a - log_b)
    return torch.where(log_a == -torch.inf, torch.zeros_like(terms), terms).sum(-1)


def mixture(
    log_p: Float[Tensor, "batch classes"], log_q: Float[Tensor, "batch classes"], share: float
) -> Float[Tensor, "batch classes"]:
    """Return log(share p + (1 - share) q), computed from log p and log q."""
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def divergence_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    form: Form,
    share: float,
    temperature: float,
) -> Float[Tensor, " batch"]:
    """Return T^2 times the divergence of each sample, in nats.

    Args:
        share: weight s of the teacher in the mixture, in (0, 1); forward and reverse ignore it.
    """
    log_p = F.log_softmax(teacher_logits / temperature, dim=-1)
    log_q = F.log_softmax(student_logits / temperature, dim=-1)
    if form == "forward":
        loss = relative_entropy(log_p, log_q)
    elif form == "reverse":
        loss = relative_entropy(log_q, log_p)
    else:
        log_m = mixture(log_p, log_q, share)
        loss = torch.zeros_like(log_q[:, 0])
        if form != "skewed-reverse":
            weight = share if form == "jensen-shannon" else 1.0
            loss = loss + weight * relative_entropy(log_p, log_m)
        if form != "skewed-forward":
            weight = 1.0 - share if form == "jensen-shannon" else 1.0
            loss = loss + weight * relative_entropy(log_q, log_m)
    return temperature**2 * loss


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Objective: a divergence of class probabilities. Default: reverse, as the paper advises.

    Args:
        form: "forward" is KL(teacher || student), as in soft targets; "reverse" is
            KL(student || teacher); "jensen-shannon", "skewed-forward" and "skewed-reverse" compare
            with a mixture of both.
        share: weight of the teacher in that mixture.
        temperature: divisor of both networks' logits.
    """

    form: Form = "reverse"
    share: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        one_of("form", self.form, get_args(Form))
        positive("temperature", self.temperature)
        if not 0 < self.share < 1:
            raise ValueError(
                f"share must be between 0 and 1, got {self.share}; "
                "for the limits use form='forward' or form='reverse'"
            )

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = divergence_loss(
            batch.counted(student.output.float()),
            batch.counted(teacher.output.float()),
            self.form,
            self.share,
            self.temperature,
        )
        return {f"{self.form.replace('-', '_')}_divergence": loss.mean()}


PUBLISHED = {
    "supervised": Divergence(form="forward"),
    "reinforced": Divergence(form="reverse"),
    "generalised-kd": Divergence(form="jensen-shannon", share=0.5),
    "skewed-kl": Divergence(form="skewed-forward", share=0.1),
    "skewed-reverse-kl": Divergence(form="skewed-reverse", share=0.9),
}
