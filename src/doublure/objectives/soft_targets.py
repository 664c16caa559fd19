"""Soft targets: match the teacher's class probabilities at a temperature.

Logits v (teacher), z (student); p = softmax(v/T), q = softmax(z/T); loss T^2 sum p log(p/q).
Conventions, for comparing weights with other code: summed over classes, averaged over the batch
("batchmean"), multiplied by T^2, in float32, no hard-label term. Code that also averages over
the C classes has a loss smaller by the factor C.
Differs from the paper: KL instead of cross-entropy. The gradients are equal, and the loss is 0 when
student and teacher agree.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, Outputs

CARD = Card(
    paper="Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531",
    needs=("logits",),
    reported={"MNIST test errors, student 2x800": 74, "the same student alone": 146},
)


def soft_target_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float,
) -> Float[Tensor, " batch"]:
    """Return T^2 KL(p || q) of each sample, in nats."""
    log_p = F.log_softmax(teacher_logits / temperature, dim=-1)
    log_q = F.log_softmax(student_logits / temperature, dim=-1)
    # Gradients shrink as 1/T^2 (sec. 2.1). The factor T^2 cancels that, so that a weight tuned at
    # one T is right at another.
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


@dataclass(frozen=True, kw_only=True)
class SoftTargets:
    """Objective: soft targets at one temperature. Default: the paper's setting for MNIST.

    Args:
        temperature: both networks' logits are divided by it.
    """

    temperature: float = 20.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        student_logits, teacher_logits = (
            batch.counted(student.output),
            batch.counted(teacher.output),
        )
        # In float32: at T = 20 half precision cannot resolve the differences between logits.
        loss = soft_target_loss(student_logits.float(), teacher_logits.float(), self.temperature)
        return {"soft_targets": loss.mean()}


PUBLISHED = {
    "mnist": SoftTargets(),
    "surrogate-generic": SoftTargets(temperature=2.0),
    "surrogate-synthetic": SoftTargets(temperature=20.0),
    "cifar100-benchmarks": SoftTargets(temperature=4.0),
}
