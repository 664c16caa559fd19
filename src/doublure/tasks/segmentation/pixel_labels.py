"""Pixel labels: cross-entropy on every pixel that counts, with weights of classes and focus.

With p the probability of a pixel's own class y:

    L = sum_pixels w_y (1 - p)^gamma (-log p) / sum_pixels w_y

over the pixels of the batch that count; 0 where none does. gamma = 0 and equal weights is plain
cross-entropy. Weights 1 / sqrt(share of the class) let rare classes be learned without letting them
rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.protocols import Batch, Outputs

CARD = Card(
    paper="Lin, Goyal, Girshick, He, Dollar: Focal Loss for Dense Object Detection (eq. 4), "
    "arXiv:1708.02002",
    needs=("labels",),
)


def focal_loss(
    logits: Float[Tensor, "pixels classes"], labels: Int64[Tensor, " pixels"], focus: float
) -> Float[Tensor, " pixels"]:
    """Return (1 - p)^focus (-log p) of each pixel, in nats."""
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")
    return (1 - torch.exp(-cross_entropy)) ** focus * cross_entropy if focus else cross_entropy


def balancing_weights(shares: Sequence[float]) -> tuple[float, ...]:
    """Return 1 / sqrt(share) of each class, so that a pixel weighs 1 on average.

    A class that is absent gets the largest weight of those that are there.
    """
    rarest = min(share for share in shares if share > 0)
    raw = [max(share, rarest) ** -0.5 for share in shares]
    mean = sum(share * weight for share, weight in zip(shares, raw, strict=True))
    return tuple(round(weight / mean, 4) for weight in raw)


@dataclass(frozen=True, kw_only=True)
class PixelLabels:
    """Objective: cross-entropy with the label of every pixel.

    Args:
        class_weights: one weight a class; () weighs all alike.
        focus: gamma; 2 in the paper, 0 for plain cross-entropy.
    """

    class_weights: tuple[float, ...] = ()
    focus: float = 0.0

    def __post_init__(self) -> None:
        if self.focus < 0 or any(weight < 0 for weight in self.class_weights):
            raise ValueError(
                f"focus and class_weights must not be negative, got {self.focus} and "
                f"{self.class_weights}"
            )

    def __call__(
        self, student: Outputs, teacher: Outputs | None, batch: Batch
    ) -> dict[str, Tensor]:
        if batch.labels is None or batch.mask is None:
            raise ValueError("pixel labels need label maps; name a folder of scenes with labels")
        logits = student.output.float().movedim(1, -1)[batch.mask]
        labels = batch.labels[batch.mask]
        if not len(labels):
            return {"pixel_labels": 0 * student.output.float().sum()}
        loss = focal_loss(logits, labels, self.focus)
        if not self.class_weights:
            return {"pixel_labels": loss.mean()}
        if len(self.class_weights) != logits.shape[1]:
            raise ValueError(
                f"class_weights must have one value per class ({logits.shape[1]}), got "
                f"{len(self.class_weights)}"
            )
        weights = torch.tensor(self.class_weights, device=loss.device)[labels]
        return {"pixel_labels": (weights * loss).sum() / weights.sum()}
