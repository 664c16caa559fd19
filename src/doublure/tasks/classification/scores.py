"""Classification: one class per image, scored by top-1 accuracy.

Further scores are the negative log-likelihood (nats per image) and the expected calibration error
of Guo et al. 2017 (arXiv:1706.04599): with B_m the images with confidence max softmax(z) in (m-1,
m] / M,

    ECE = sum_m |B_m| / n * | accuracy(B_m) - mean confidence(B_m) |

Everything is computed in float32 and summed in float64; one pass, with the memory of one batch.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from doublure.core.checks import positive
from doublure.core.findings import Score
from doublure.core.protocols import Batch
from doublure.core.statistics import top1_equal


def top1_correct(
    logits: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """Return whether each image's largest logit (the first of equal ones) is that of its label."""
    return logits.argmax(-1) == labels


def negative_log_likelihood(
    logits: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return -log softmax(z)_label of each image, in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def confidence_bins(confidence: Float[Tensor, " batch"], num_bins: int) -> Int64[Tensor, " batch"]:
    """Return the bin m - 1 of each confidence in (m - 1, m] / num_bins."""
    return ((confidence * num_bins).ceil().long() - 1).clamp(0, num_bins - 1)


def calibration_error(
    bin_correct: Float[Tensor, " bins"], bin_confidence: Float[Tensor, " bins"], count: int
) -> Float[Tensor, ""]:
    """Return the expected calibration error in [0, 1] from sums over each bin's images."""
    # |B|/n * |correct/|B| - confidence/|B|| = |correct - confidence| / n: empty bins contribute 0.
    return (bin_correct - bin_confidence).abs().sum() / count


class ClassificationTally:
    """Sums over batches for all scores, on the device of the logits.

    `correct` and `count` have one number per class, by label.
    """

    def __init__(self, classes: int, num_bins: int, device: torch.device | str = "cpu") -> None:
        self.correct = torch.zeros(classes, dtype=torch.int64, device=device)
        self.count = torch.zeros_like(self.correct)
        self._nll = torch.zeros((), dtype=torch.float64, device=device)
        self._bin_correct = torch.zeros(num_bins, dtype=torch.float64, device=device)
        self._bin_confidence = torch.zeros_like(self._bin_correct)

    def add(self, logits: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]) -> None:
        """Add one batch."""
        logits = logits.float()
        right = top1_correct(logits, labels)
        self.count.index_add_(0, labels, torch.ones_like(labels))
        self.correct.index_add_(0, labels, right.long())
        self._nll += negative_log_likelihood(logits, labels).double().sum()
        confidence = logits.softmax(-1).amax(-1)
        bins = confidence_bins(confidence, len(self._bin_correct))
        self._bin_correct.index_add_(0, bins, right.double())
        self._bin_confidence.index_add_(0, bins, confidence.double())

    def scores(self) -> dict[str, Score]:
        """Return accuracy, nll (nats per image) and calibration_error."""
        count = int(self.count.sum())
        if count == 0:
            raise ValueError("nothing to score: there was no image")
        error = calibration_error(self._bin_correct, self._bin_confidence, count)
        return {
            "accuracy": Score(value=int(self.correct.sum()) / count, count=count),
            "nll": Score(value=float(self._nll) / count, count=count),
            "calibration_error": Score(value=float(error), count=count),
        }


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Task: one class per image. Default: the 15 confidence bins of Guo et al."""

    num_bins: int = 15

    def __post_init__(self) -> None:
        positive("num_bins", self.num_bins)

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]:
        """Return accuracy, nll and calibration_error of (logits, batch with labels) pairs."""
        return self.tally(pairs).scores()

    def tally(self, pairs: Iterable[tuple[Any, Batch]]) -> ClassificationTally:
        """Return the sums for the scores, with correct and count of every class."""
        tally: ClassificationTally | None = None
        for output, batch in pairs:
            logits = _logits(output)
            labels = _class_indices(batch, logits)
            if tally is None:
                tally = ClassificationTally(logits.shape[1], self.num_bins, logits.device)
            tally.add(logits, labels)
        if tally is None:
            raise ValueError("nothing to score: there was no batch")
        return tally

    def confusion(self, pairs: Iterable[tuple[Any, Batch]]) -> Int64[Tensor, "labels predictions"]:
        """Return the confusion matrix: images by class (row) and predicted class (column)."""
        table: Tensor | None = None
        for output, batch in pairs:
            logits = _logits(output)
            labels = _class_indices(batch, logits)
            classes = logits.shape[1]
            if table is None:
                table = torch.zeros(classes * classes, dtype=torch.int64, device=logits.device)
            cell = labels * classes + logits.argmax(-1)
            table.index_add_(0, cell, torch.ones_like(cell))
        if table is None:
            raise ValueError("nothing to score: there was no batch")
        return table.view(math.isqrt(len(table)), -1)

    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score:
        """Return the share of images with the same predicted class by two networks."""
        same, count = torch.zeros((), dtype=torch.int64), 0
        for student, teacher in outputs:
            equal = top1_equal(_logits(student), _logits(teacher))
            same, count = same.to(equal.device) + equal.sum(), count + len(equal)
        if count == 0:
            raise ValueError("nothing to compare: there was no batch")
        return Score(value=int(same) / count, count=count)


def _logits(output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2:
        what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"{type(output)}"
        raise ValueError(f"classification needs logits of shape (batch, classes), got {what}")
    # Minus infinity excludes a class and is valid; NaN, or only minus infinity, is not.
    if bad := int((~output.amax(-1).isfinite()).sum()):
        raise ValueError(
            f"the network's logits are NaN or infinite for {bad} of {len(output)} images; "
            "check its weights, mean and std"
        )
    return output.float()


def _class_indices(batch: Batch, logits: Tensor) -> Tensor:
    if batch.labels is None:
        raise ValueError("this batch has no labels; scores need them, agreement does not")
    if batch.labels.dtype != torch.int64 or batch.labels.ndim != 1:
        raise ValueError(
            f"labels must be int64 class indices of shape (batch,), got {batch.labels.dtype} of "
            f"shape {tuple(batch.labels.shape)}"
        )
    classes, low, high = logits.shape[1], int(batch.labels.min()), int(batch.labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels from {low} to {high} do not fit a network of {classes} classes")
    return batch.labels.to(logits.device)
