"""New classes without the old data: labels on new images, the old network's outputs on all images.

Old network's logits v over the old classes C_o, student's z over C_o and the new classes C_k; z_o
are its first |C_o| logits, so that softmax(z_o) is renormalised over the old classes. New images
x_k have labels y_k, transfer images x^ have the label -1:

    L = CE(y_k, softmax(z(x_k)))
        + lwf KL(softmax(v(x_k)) || softmax(z_o(x_k)))
        + rehearsal KL(softmax(v(x^)) || softmax(z_o(x^)))
        + separation -log sum_{c in C_o} softmax(z(x^))_c,

each a mean over its own images. The last term is ours: softmax(z_o) does not constrain the new
logits of a transfer image, and since every label names a new class, the student would predict a new
class for all images. With weights of 1 the last two terms are KL(softmax(v) padded with zeros for
C_k || softmax(z)) over all classes.
lwf = rehearsal = 0 is plain fine-tuning; rehearsal = 0 alone is learning without forgetting (Li,
Hoiem, arXiv:1606.09282). With over = "new" the cross-entropy compares new classes only: if transfer
images look synthetic, labels over all classes train the student to separate synthetic from real
images instead of old from new classes (Smith et al., arXiv:2106.09701).
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch, Outputs
from doublure.objectives.soft_targets import soft_target_loss

CARD = Card(
    paper="Yin et al.: Dreaming to Distill, arXiv:1912.08795",
    needs=("logits", "labels"),
    reported={
        "ImageNet then CUB, ResNet-18, mean of both": 67.61,
        "the same, LwF.MC": 47.64,
        "CIFAR-100 in 5 tasks (in arXiv:2106.09701)": 18.8,
        "the same, LwF.MC (there)": 32.5,
    },
)

# The label of a transfer image: only the old network's output is its target.
UNLABELLED = -1


def mean_over(losses: Float[Tensor, " batch"], chosen: Bool[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the mean of the chosen losses; 0 if none is chosen."""
    return (losses * chosen).sum() / chosen.sum().clamp(min=1)


def new_class_loss(
    logits: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"], num_old: int
) -> Float[Tensor, " batch"]:
    """Return the cross-entropy of each labelled sample, and 0 for the others.

    Args:
        num_old: number of leading classes to exclude; 0 compares all classes.
    """
    shifted = (labels - num_old).where(labels != UNLABELLED, UNLABELLED)
    return F.cross_entropy(logits[:, num_old:], shifted, reduction="none", ignore_index=UNLABELLED)


def separation_loss(
    logits: Float[Tensor, "batch classes"], num_old: int
) -> Float[Tensor, " batch"]:
    """Return -log of the total probability of the first `num_old` classes, per sample."""
    return logits.logsumexp(1) - logits[:, :num_old].logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class Continual:
    """Objective: new classes from labels, old ones from the old network.

    Args:
        rehearsal: weight of the old network's outputs on transfer images; 0 also turns off
            separation.
        separation: weight, times `rehearsal`, of the term that lowers new classes on transfer
            images.
        lwf: weight of the old network's outputs on new images.
        over: classes of the cross-entropy with labels: "all" or "new".
        temperature: temperature of both KL terms.
    """

    rehearsal: float = 1.0
    separation: float = 1.0
    lwf: float = 1.0
    over: Literal["all", "new"] = "all"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        one_of("over", self.over, ("all", "new"))
        if self.over == "new" and self.rehearsal * self.separation > 0:
            raise ValueError(
                "labels over new classes only raise none of them above the old ones, which "
                "separation favours: every image would be called old; set separation to 0 as well"
            )
        for name in ("rehearsal", "separation", "lwf"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        labels = batch.labels
        if labels is None or labels.is_floating_point():
            raise ValueError("continual learning needs class labels; give labelled images")
        logits, old = student.output.float(), teacher.output.float()
        num_old = old.shape[1]
        labelled = labels != UNLABELLED
        soft_losses = soft_target_loss(logits[:, :num_old], old, self.temperature)
        label_losses = new_class_loss(logits, labels, num_old if self.over == "new" else 0)
        terms = {"new_classes": mean_over(label_losses, labelled)}
        if self.lwf > 0:
            terms["lwf"] = self.lwf * mean_over(soft_losses, labelled)
        if self.rehearsal > 0:
            terms["rehearsal"] = self.rehearsal * mean_over(soft_losses, ~labelled)
        if self.rehearsal * self.separation > 0:
            weight = self.rehearsal * self.separation
            terms["separation"] = weight * mean_over(separation_loss(logits, num_old), ~labelled)
        return terms
