"""Divergences between the two networks' class probabilities, other than that of soft targets.

Logits v (teacher), z (student); p = softmax(v/T), q = softmax(z/T), M = s p + (1 - s) q:
    forward           KL(p || q) = sum p log(p/q)      gradient in z:  (q - p) / T
    reverse           KL(q || p) = sum q log(q/p)      q (log(q/p) - KL) / T
    jensen-shannon    s KL(p || M) + (1 - s) KL(q || M)
    skewed-forward    KL(p || M)
    skewed-reverse    KL(q || M)
Conventions: summed over classes, averaged over the batch, times T^2, in float32. As s -> 0,
jensen-shannon / s and skewed-forward become forward; as s -> 1, jensen-shannon / (1 - s) and
skewed-reverse become reverse. Gradients of the three mixtures vanish with the share, and are
not made up for.

Forward covers what the teacher holds possible: no class of it may be lost. Reverse seeks: a class
that the student does not propose has no gradient. Reverse is infinite where a teacher's logit is
-inf; the mixtures never are.

Sun, Cross: arXiv:2008.10077, of which only the abstract was read; s is the beta of generalised
knowledge distillation (Agarwal et al., arXiv:2306.13649) and the alpha of skewed divergences (Ko
et al., arXiv:2402.03898), where skewed-reverse has s = 1 - alpha.
Differs from the paper: of classes, not of sequences; so there is no prefix to sample.
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
    """Return KL(a || b) of each sample, in nats, of log-probabilities; what a excludes adds 0."""
    weighed = log_a.exp() * (log_a - log_b)
    return torch.where(log_a == -torch.inf, torch.zeros_like(weighed), weighed).sum(-1)


def mixture(
    log_p: Float[Tensor, "batch classes"], log_q: Float[Tensor, "batch classes"], share: float
) -> Float[Tensor, "batch classes"]:
    """Return log(share p + (1 - share) q): a mixture of probabilities, not of their logarithms."""
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
        share: of the teacher in the mixture, between 0 and 1; not used by forward and reverse.
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
        form: "forward" is KL(teacher || student), that of soft targets; "reverse" is
            KL(student || teacher); "jensen-shannon", "skewed-forward" and "skewed-reverse" compare
            with a mixture of both.
        share: of the teacher in that mixture.
        temperature: by which both networks' logits are divided.
    """

    form: Form = "reverse"
    share: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        one_of("form", self.form, get_args(Form))
        positive("temperature", self.temperature)
        if not 0 < self.share < 1:
            raise ValueError(
                f"share must lie between 0 and 1, got {self.share}; "
                "the limits are form='forward' and form='reverse'"
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
