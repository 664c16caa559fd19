"""Soft targets: match the teacher's class probabilities at a temperature.

Logits v (teacher), z (student); p = softmax(v/T), q = softmax(z/T); loss T^2 sum p log(p/q).
Conventions, so that weights can be carried over: summed over classes, averaged over the batch
("batchmean"), multiplied by T^2, in float32, no hard-label term. Averaging over classes as well,
as some code does, gives a loss smaller by the factor C.
Differs from the paper: KL instead of cross-entropy. Equal gradients; agreement scores zero.
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
    # Gradients shrink as 1/T^2 (sec. 2.1); undone, a weight tuned at one T serves at another.
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


@dataclass(frozen=True, kw_only=True)
class SoftTargets:
    """Objective: soft targets at one temperature. Default: the paper's MNIST setting.

    Args:
        temperature: by which both networks' logits are divided.
    """

    temperature: float = 20.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = batch.counted(student.output), batch.counted(teacher.output)
        # At T = 20 neighbouring logits differ by less than half precision resolves.
        loss = soft_target_loss(ours.float(), theirs.float(), self.temperature)
        return {"soft_targets": loss.mean()}


PUBLISHED = {
    "mnist": SoftTargets(),
    "surrogate-generic": SoftTargets(temperature=2.0),
    "surrogate-synthetic": SoftTargets(temperature=20.0),
    "cifar100-benchmarks": SoftTargets(temperature=4.0),
}
