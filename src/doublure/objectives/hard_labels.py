"""Hard labels: cross-entropy with the labels of the transfer set, or with the teacher's top-1.

Logits z, label y: loss -log softmax(z)_y; for label probabilities t: -sum t log softmax(z).
Label smoothing s replaces a one-hot label by (1 - s) onehot + s/C. In text, every token is a
sample.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import one_of, share
from doublure.core.protocols import Batch, Outputs

CARD = Card(
    paper="Szegedy et al.: Rethinking the Inception Architecture (label smoothing, sec. 7), "
    "arXiv:1512.00567",
    needs=("labels",),
)


LabelSource = Literal["batch", "teacher"]


def class_labels(
    whose: LabelSource, teacher: Outputs | None, batch: Batch, *, probabilities: bool = False
) -> Tensor:
    """Return the labels of the batch, or the teacher's top-1.

    Args:
        probabilities: return label probabilities unchanged instead of their top-1.

    Raises:
        ValueError: there are no labels; the message names the alternatives.
    """
    if whose == "teacher":
        if teacher is None:
            raise ValueError("of='teacher' needs a teacher, but there is none; use of='batch'")
        top: Tensor = teacher.output.argmax(-1)
        return top
    labels = batch.labels
    if labels is None:
        raise ValueError(
            "hard labels need labels, but the transfer set has none; "
            "use a labelled set with --labels, or of='teacher'"
        )
    return labels.argmax(-1) if labels.is_floating_point() and not probabilities else labels


def hard_label_loss(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    label_smoothing: float,
) -> Float[Tensor, " batch"]:
    """Return the cross-entropy of each sample, in nats."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


@dataclass(frozen=True, kw_only=True)
class HardLabels:
    """Objective: cross-entropy with hard labels.

    Args:
        label_smoothing: share s of the label's probability that is spread over all classes.
        of: source of the labels: "batch", the labels of the transfer set, or "teacher", the
            teacher's top-1.
    """

    label_smoothing: float = 0.0
    of: LabelSource = "batch"

    def __post_init__(self) -> None:
        share("label_smoothing", self.label_smoothing)
        one_of("labels", self.of, get_args(LabelSource))

    def __call__(
        self, student: Outputs, teacher: Outputs | None, batch: Batch
    ) -> dict[str, Tensor]:
        labels = class_labels(self.of, teacher, batch, probabilities=True)
        logits = batch.counted(student.output.float())
        loss = hard_label_loss(logits, batch.counted(labels), self.label_smoothing)
        return {"hard_labels": loss.mean()}
