"""Knowledge adjustment and dynamic temperatures: correct wrong targets; a temperature per sample.

Logits v (teacher), z (student), label y. If the teacher's top-1 is not y, its output is adjusted:
    shift    swap the logits of y and of the top-1
    smooth   replace the probabilities by 1 - e for y and e / (C - 1) for the other classes
    drop     give the sample a loss of 0: the simple alternative to both
and is unchanged otherwise. Each sample has its own temperature, the same for both networks:
    T_x = clip(T + b (mean_j w_j - w_x), 1, 2 T)
It is lower for harder samples. The hardness w_x, without gradient, is
    cosine       (1 - cos(z, v))^g        of centred logits
    overlap      (1 - <q, p>)^g           of probabilities at T = 1
    confidence   1 / max q                of the student's probabilities at T = 1
    none         the same for all: T_x = T
and the loss of a sample is f KL(adjusted || softmax(z / T_x)), f = T^2, T_x^2 or 1.

With f = T_x^2 gradients have the same size for all temperatures; with f = T^2 hard samples, which
have a low T_x, have larger gradients. The mean of w is over this process's batch, so T_x depends on
the other samples of the batch.

Wen, Lai, Qian: arXiv:1911.07471. We read only the abstract; the formulas are those on which two
public implementations agree. The bounds of T_x, the centring of logits, the temperature and b are
ours. Each kind of hardness has its own range: a value of b for one does not suit another.
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


def has_wrong_top(
    teacher_logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Return for each sample whether another class exceeds the label; a tie is not an error."""
    of_label = teacher_logits.gather(1, labels[:, None]).squeeze(1)
    return teacher_logits.amax(-1) > of_label


def shift_logits(
    teacher_logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, "batch classes"]:
    """Return the logits with label and top-1 swapped in the samples where the teacher is wrong."""
    # Where the teacher is right the label is swapped with itself.
    top = torch.where(has_wrong_top(teacher_logits, labels), teacher_logits.argmax(-1), labels)
    pair = torch.stack([labels, top], 1)
    return teacher_logits.scatter(1, pair, teacher_logits.gather(1, pair.flip(1)))


def smooth_labels(
    labels: Int[Tensor, " batch"], num_classes: int, smoothing: float
) -> Float[Tensor, "batch classes"]:
    """Return 1 - smoothing for the label and smoothing / (C - 1) for each other class."""
    one_hot = F.one_hot(labels, num_classes).float()
    return (1 - smoothing) * one_hot + smoothing / (num_classes - 1) * (1 - one_hot)


def cosine_hardness(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    exponent: float,
) -> Float[Tensor, " batch"]:
    """Return (1 - cosine)^exponent of the two vectors of each sample."""
    # Rounding can make the base negative, and a fractional power of that is NaN.
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
    """Return 1 over the student's largest probability, in [1, number of classes]."""
    return 1 / student_logits.softmax(-1).amax(-1)


def sample_temperatures(
    hardness: Float[Tensor, " batch"], temperature: float, bias: float
) -> Float[Tensor, " batch"]:
    """Return T + bias (mean - hardness), clipped to [1, 2 T]; harder samples have a lower one."""
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
    """Objective: adjusted targets, with a temperature per sample. Default: both parts are on.

    Args:
        temperature: T, the centre of the samples' temperatures.
        adjustment: treatment of an output whose top-1 is not the label: "shift", "smooth", "drop"
            or "none".
        smoothing: e, the probability that "smooth" gives to all other classes together.
        hardness: measure of hardness: "cosine", "overlap", "confidence" or "none".
        bias: b, how strongly hardness lowers the temperature; 1 over the standard deviation of the
            hardness gives temperatures with a standard deviation of about 1.
        exponent: exponent g of "cosine" and "overlap".
        scale: factor f on the loss: "constant" is T^2, "sample" T_x^2, "none" 1.
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
        student_logits, teacher_logits = student.output.float(), teacher.output.float()
        tau = self._temperatures(student_logits.detach(), teacher_logits)
        labels = None if self.adjustment == "none" else self._labels(teacher_logits, batch)
        loss = self._scales(tau) * tempered_loss(
            student_logits, self._targets(teacher_logits, labels, tau), tau
        )
        if labels is not None and self.adjustment == "drop":
            loss = loss * ~has_wrong_top(teacher_logits, labels)
        return {"knowledge_adjustment": loss.mean()}

    def _temperatures(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.hardness == "cosine":
            student_centred, teacher_centred = (
                x - x.mean(-1, keepdim=True) for x in (student, teacher)
            )
            hardness = cosine_hardness(student_centred, teacher_centred, self.exponent)
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
            smooth = smooth_labels(labels, teacher.shape[1], self.smoothing)
            target = torch.where(has_wrong_top(teacher, labels)[:, None], smooth, target)
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
                "knowledge adjustment needs labels, but the transfer set has none; use a labelled "
                "set with --labels, or adjustment='none', which keeps the dynamic temperatures"
            )
        # Mixed images have label probabilities: the class is the largest of them.
        return batch.labels if batch.labels.dim() == 1 else batch.labels.argmax(-1)


PUBLISHED = {
    "adjustment-alone": KnowledgeAdjustment(hardness="none"),
    "smoothing-alone": KnowledgeAdjustment(adjustment="smooth", hardness="none"),
    "temperatures-alone": KnowledgeAdjustment(adjustment="none"),
    "confidence-alone": KnowledgeAdjustment(adjustment="none", hardness="confidence"),
}
