"""Knowledge adjustment and dynamic temperatures: correct what is taught, and say how softly.

Logits v (teacher), z (student), label y. Where the teacher's top-1 is not y, its answer changes:
    shift    the values of y and of the top-1 change places
    smooth   the answer becomes 1 - e for y and e / (C - 1) for the other classes
    drop     the sample adds nothing: the plain rival of both
and is left alone otherwise. Each sample has its own temperature, that of both networks:
    T_x = clip(T + b (mean_j w_j - w_x), 1, 2 T)
lower for harder samples, where the hardness w_x, without gradient, is
    cosine       (1 - cos(z, v))^g        of centred logits
    overlap      (1 - <q, p>)^g           of probabilities at T = 1
    confidence   1 / max q                of the student's probabilities at T = 1
    none         the same for all: T_x = T
and the loss of a sample is f KL(adjusted || softmax(z / T_x)), f = T^2, T_x^2 or 1.

With f = T_x^2 gradients are of one size and what is hard weighs no more; T^2 lets it weigh more.
The mean of w is over this process's batch, so T_x depends on what else is in it.

Wen, Lai, Qian: arXiv:1911.07471. Only its abstract was read; the formulas are those that two
public implementations share. The bounds of T_x, the centring of logits, the temperature and b are
ours. Hardness of different kinds has different ranges: b does not carry over between them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive, share
from doublure.core.protocols import Batch, Outputs

CARD = Card(
    paper="Wen, Lai, Qian: Preparing Lessons: Improve Knowledge Distillation with Better "
    "Supervision, arXiv:1911.07471",
    needs=("logits", "labels"),
)

Adjustment = Literal["shift", "smooth", "drop", "none"]
Hardness = Literal["cosine", "overlap", "confidence", "none"]
Scale = Literal["constant", "sample", "none"]


def mistaken(
    teacher_logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Return where another class has more than the label; a tie is no mistake."""
    of_label = teacher_logits.gather(1, labels[:, None]).squeeze(1)
    return teacher_logits.amax(-1) > of_label


def shift_logits(
    teacher_logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, "batch classes"]:
    """Return logits in which label and top-1 have changed places where the teacher is mistaken."""
    top = torch.where(mistaken(teacher_logits, labels), teacher_logits.argmax(-1), labels)
    pair = torch.stack([labels, top], 1)
    return teacher_logits.scatter(1, pair, teacher_logits.gather(1, pair.flip(1)))


def smoothed(
    labels: Int[Tensor, " batch"], num_classes: int, smoothing: float
) -> Float[Tensor, "batch classes"]:
    """Return 1 - smoothing for the label and an even part of the rest for each other class."""
    one_hot = F.one_hot(labels, num_classes).float()
    return (1 - smoothing) * one_hot + smoothing / (num_classes - 1) * (1 - one_hot)


def cosine_hardness(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    exponent: float,
) -> Float[Tensor, " batch"]:
    """Return (1 - cosine)^exponent of each sample's two vectors."""
    # Rounding can make it negative, which a fractional power turns into NaN.
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).clamp(min=0) ** exponent


def overlap_hardness(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    exponent: float,
) -> Float[Tensor, " batch"]:
    """Return (1 - <q, p>)^exponent of the probabilities."""
    inner = (student_logits.softmax(-1) * teacher_logits.softmax(-1)).sum(-1)
    return (1 - inner).clamp(min=0) ** exponent


def confidence_hardness(
    student_logits: Float[Tensor, "batch classes"],
) -> Float[Tensor, " batch"]:
    """Return one over the student's largest probability; from 1 up to the number of classes."""
    return 1 / student_logits.softmax(-1).amax(-1)


def sample_temperatures(
    hardness: Float[Tensor, " batch"], temperature: float, bias: float
) -> Float[Tensor, " batch"]:
    """Return T + bias (mean - hardness), not below 1 and not above 2 T; harder is lower."""
    tau = temperature + bias * (hardness.mean() - hardness)
    return tau.clamp(min(1.0, temperature), 2 * temperature)


def tempered_loss(
    student_logits: Float[Tensor, "batch classes"],
    target: Float[Tensor, "batch classes"],
    temperatures: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Return KL(target || softmax(z / T_x)) of each sample, in nats."""
    log_q = F.log_softmax(student_logits / temperatures[:, None], dim=-1)
    return F.kl_div(log_q, target, reduction="none").sum(-1)


@dataclass(frozen=True, kw_only=True)
class KnowledgeAdjustment:
    """Objective: adjusted targets at a temperature for each sample. Default: both parts at work.

    Args:
        temperature: T, around which those of the samples lie.
        adjustment: what becomes of an answer whose top-1 is not the label: "shift", "smooth",
            "drop" or "none".
        smoothing: e, what "smooth" leaves to the other classes together.
        hardness: what makes a sample hard: "cosine", "overlap", "confidence" or "none".
        bias: b, by how much hardness lowers the temperature; 1 over the spread of the hardness
            spreads temperatures by about 1.
        exponent: g, of the first two kinds of hardness.
        scale: of the loss: "constant" is T^2, "sample" T_x^2, "none" 1.
        of: whose labels: "batch", those of the transfer set; "teacher", its top-1, which is never
            mistaken, so that nothing is adjusted.
    """

    temperature: float = 4.0
    adjustment: Adjustment = "shift"
    smoothing: float = 0.1
    hardness: Hardness = "cosine"
    bias: float = 10.0
    exponent: float = 1.0
    scale: Scale = "constant"
    of: Literal["batch", "teacher"] = "batch"

    def __post_init__(self) -> None:
        for name in ("temperature", "exponent"):
            positive(name, getattr(self, name))
        if self.bias < 0:
            raise ValueError(f"bias must not be negative, got {self.bias}")
        share("smoothing", self.smoothing)
        one_of("adjustment", self.adjustment, get_args(Adjustment))
        one_of("hardness", self.hardness, get_args(Hardness))
        one_of("scale", self.scale, get_args(Scale))

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = student.output.float(), teacher.output.float()
        tau = self._temperatures(ours.detach(), theirs)
        labels = None if self.adjustment == "none" else self._labels(theirs, batch)
        loss = self._scales(tau) * tempered_loss(ours, self._targets(theirs, labels, tau), tau)
        if labels is not None and self.adjustment == "drop":
            loss = loss * ~mistaken(theirs, labels)
        return {"knowledge_adjustment": loss.mean()}

    def _temperatures(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.hardness == "cosine":
            ours, theirs = (x - x.mean(-1, keepdim=True) for x in (student, teacher))
            hardness = cosine_hardness(ours, theirs, self.exponent)
        elif self.hardness == "overlap":
            hardness = overlap_hardness(student, teacher, self.exponent)
        elif self.hardness == "confidence":
            hardness = confidence_hardness(student)
        else:
            hardness = torch.zeros_like(student[:, 0])
        return sample_temperatures(hardness, self.temperature, self.bias)

    def _targets(self, teacher: Tensor, labels: Tensor | None, tau: Tensor) -> Tensor:
        if labels is not None and self.adjustment == "shift":
            teacher = shift_logits(teacher, labels)
        target = (teacher / tau[:, None]).softmax(-1)
        if labels is not None and self.adjustment == "smooth":
            even = smoothed(labels, teacher.shape[1], self.smoothing)
            target = torch.where(mistaken(teacher, labels)[:, None], even, target)
        return target

    def _scales(self, tau: Tensor) -> Tensor:
        if self.scale == "sample":
            return tau**2
        return torch.full_like(tau, self.temperature**2 if self.scale == "constant" else 1.0)

    def _labels(self, teacher: Tensor, batch: Batch) -> Tensor:
        if self.of == "teacher":
            return teacher.argmax(-1)
        if batch.labels is None:
            raise ValueError(
                "adjusting answers needs labels, but the transfer set brings none; use a labelled "
                "set with --labels, or adjustment='none', which leaves the temperatures"
            )
        # Of label probabilities, as mixtures have them, the largest counts.
        return batch.labels if batch.labels.dim() == 1 else batch.labels.argmax(-1)


PUBLISHED = {
    "adjustment-alone": KnowledgeAdjustment(hardness="none"),
    "smoothing-alone": KnowledgeAdjustment(adjustment="smooth", hardness="none"),
    "temperatures-alone": KnowledgeAdjustment(adjustment="none"),
    "confidence-alone": KnowledgeAdjustment(adjustment="none", hardness="confidence"),
}
