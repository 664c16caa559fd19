"""Hard labels: cross-entropy with the labels the transfer set brings, or with the teacher's top-1.

Logits z, label y: loss -log softmax(z)_y; for label probabilities t: -sum t log softmax(z).
Label smoothing s replaces a one-hot label by (1 - s) onehot + s/C.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from understudy.cards import Card
from understudy.checks import share
from understudy.protocols import Batch, Trace

CARD = Card(
    paper="Szegedy et al.: Rethinking the Inception Architecture (label smoothing, sec. 7), "
    "arXiv:1512.00567",
    needs=("labels",),
)


def hard_label_loss(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    label_smoothing: float,
) -> Float[Tensor, " batch"]:
    """Return the cross-entropy of each sample, in nats."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


@dataclass(frozen=True, kw_only=True)
class HardLabels:
    """Objective: cross-entropy. `of` says whose labels: the batch's own, or the teacher's top-1."""

    label_smoothing: float = 0.0
    of: Literal["batch", "teacher"] = "batch"

    def __post_init__(self) -> None:
        share("label_smoothing", self.label_smoothing)

    def __call__(self, student: Trace, teacher: Trace | None, batch: Batch) -> dict[str, Tensor]:
        labels = batch.labels
        if self.of == "teacher":
            if teacher is None:
                raise ValueError("hard labels of the teacher need a teacher; use of='batch'")
            labels = teacher.output.argmax(-1)
        if labels is None:
            raise ValueError(
                "hard labels need labels, but the transfer set brings none; "
                "use a labelled set with --labels, or of='teacher'"
            )
        loss = hard_label_loss(student.output.float(), labels, self.label_smoothing)
        return {"hard_labels": loss.mean()}
