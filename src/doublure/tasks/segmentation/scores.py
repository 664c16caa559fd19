"""Segmentation scores: intersection over union, pixel accuracy, agreement per pixel.

Of a confusion matrix C with C_ij the pixels of class i that are called j, of those that count:

    IoU_i = C_ii / (sum_j C_ij + sum_j C_ji - C_ii)        mIoU = mean of IoU_i over classes present
    pixel accuracy = sum_i C_ii / sum_ij C_ij

A class is present if any pixel has it. Counts are integers, the rest is float64. All pixels of a
set go into one matrix: mIoU is not a mean over images.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from doublure.core.findings import Score
from doublure.core.protocols import Batch


def confusion_matrix(
    predicted: Int[Tensor, " pixels"], labels: Int[Tensor, " pixels"], classes: int
) -> Int64[Tensor, "classes classes"]:
    """Return how many pixels of each class (rows) are called each class (columns)."""
    pairs = classes * labels.long() + predicted.long()
    return pairs.bincount(minlength=classes * classes).reshape(classes, classes)


def intersection_over_union(
    confusion: Int64[Tensor, "classes classes"],
) -> Float64[Tensor, " classes"]:
    """Return the IoU of each class; NaN where it is neither present nor predicted."""
    counts = confusion.double()
    right = counts.diagonal()
    return right / (counts.sum(0) + counts.sum(1) - right)


def present(confusion: Int64[Tensor, "classes classes"]) -> Bool[Tensor, " classes"]:
    """Return which classes any pixel has."""
    return confusion.sum(1) > 0


class SegmentationTally:
    """The confusion matrix of a set, batch by batch.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> None:
        """Count the pixels of a batch in: maps of logits, the class of each pixel, which count."""
        if logits.shape[2:] != labels.shape[1:]:
            raise ValueError(
                f"maps of {tuple(logits.shape[2:])} pixels cannot be scored on labels of "
                f"{tuple(labels.shape[1:])}; both must have the images' size"
            )
        predicted = logits.argmax(1)
        if mask is not None:
            predicted, labels = predicted[mask], labels[mask]
        counted = confusion_matrix(predicted.flatten(), labels.flatten(), len(self.confusion))
        self.confusion += counted.cpu()
        self.images += len(logits)

    def scores(self) -> dict[str, Score]:
        """Return mean IoU and pixel accuracy.

        Raises:
            ValueError: no pixel was counted.
        """
        pixels = int(self.confusion.sum())
        if pixels == 0:
            raise ValueError("a score needs labelled pixels, and none of these count")
        mean = intersection_over_union(self.confusion)[present(self.confusion)].mean()
        accuracy = int(self.confusion.diagonal().sum()) / pixels
        return {
            "mean_iou": Score(value=float(mean), count=pixels),
            "pixel_accuracy": Score(value=accuracy, count=pixels),
        }


def score(pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]:
    """Return the scores of (maps of logits, batch with labels) pairs."""
    tally: SegmentationTally | None = None
    for output, batch in pairs:
        if batch.labels is None:
            raise ValueError("a score needs labels, and this batch has none")
        tally = tally or SegmentationTally(output.shape[1])
        tally.add(output, batch.labels, batch.mask)
    if tally is None:
        raise ValueError("a score needs at least one batch, got none")
    return tally.scores()


def agreement(outputs: Iterable[tuple[Any, Any]]) -> Score:
    """Return the share of pixels to which both networks give the same class."""
    equal = count = 0
    for one, other in outputs:
        same = one.argmax(1) == other.argmax(1)
        equal, count = equal + int(same.sum()), count + same.numel()
    if count == 0:
        raise ValueError("agreement needs at least one pixel, got none")
    return Score(value=equal / count, count=count)
