"""Evaluation: how well a network segments scenes with label maps, always in float32."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from doublure.core.findings import Score
from doublure.core.protocols import Batch, image_batch
from doublure.data.scenes import IGNORED, SceneData
from doublure.nets.features import device_of
from doublure.nets.memory_format import to_channels_last_
from doublure.nets.network import freeze
from doublure.nets.precision import full_float32
from doublure.tasks.segmentation.scores import (
    SegmentationTally,
    intersection_over_union,
    present,
)

# Whole images at a time: a map of logits is classes times as large as an image.
AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class ClassIoU:
    """How one class is segmented, and how many pixels have it."""

    iou: float
    count: int


@dataclass(frozen=True, kw_only=True)
class SegmentationEvaluation:
    """What a network scored.

    Args:
        scores: mean_iou and pixel_accuracy, in [0, 1].
        count: how many images.
        per_class: by class name, or index where nobody knows names; classes that are present.
        seconds: wall time of reading and answering.
    """

    scores: Mapping[str, Score]
    count: int
    per_class: Mapping[str, ClassIoU]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints."""
        return {
            "scores": {name: score.value for name, score in self.scores.items()},
            "count": self.count,
            "per_class": {name: asdict(score) for name, score in self.per_class.items()},
        }

    def lines(self) -> list[str]:
        """Return what `evaluate` prints."""
        pixels = self.scores["mean_iou"].count
        mean = self.scores["mean_iou"].value
        return [
            f"mean IoU [bold]{mean:.2%}[/]  over {len(self.per_class)} classes, "
            f"{self.count:,} images",
            f"pixel accuracy {self.scores['pixel_accuracy'].value:.2%}  of {pixels:,} pixels",
        ]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the IoU of every class, for a table."""
        rows: list[tuple[str, ...]] = [
            (name, f"{row.iou:.1%}", f"{row.count:,}") for name, row in self.per_class.items()
        ]
        return ("class", "IoU", "pixels"), rows


def evaluate_scenes(
    model: nn.Module, data: SceneData, *, device: torch.device | str | None = None
) -> SegmentationEvaluation:
    """Return how `model` segments whole images, in float32 and eval mode; it is left as it was.

    Args:
        device: where to work; None for where the model is.
    """
    if data.label_paths is None:
        raise ValueError("these scenes have no label maps, and a score needs them")
    where = device_of(model) if device is None else torch.device(device)
    network = freeze(model).to(where, torch.float32)
    with full_float32(where):
        to_channels_last_(network)
    start = time.perf_counter()
    tally = SegmentationTally(data.contract.classes)
    for output, batch in answers(network, data, where):
        assert batch.labels is not None
        tally.add(output, batch.labels, batch.mask)
    scores = tally.scores()
    return SegmentationEvaluation(
        scores=scores,
        count=tally.images,
        per_class=_per_class(tally, data.contract.names),
        seconds=time.perf_counter() - start,
    )


@torch.no_grad()
def answers(
    network: nn.Module, data: SceneData, device: torch.device, at_once: int = AT_ONCE
) -> Iterator[tuple[Any, Batch]]:
    """Yield the network's maps for all scenes in order, with batches that hold their labels."""
    for start in range(0, len(data), at_once):
        places = range(start, min(start + at_once, len(data)))
        images = data.images(places).to(device).float() / 255
        labels = data.labels(places).to(device)
        with full_float32(device):
            output = network(images)
        yield output, image_batch(images, labels=labels.long(), mask=labels != IGNORED)


def _per_class(tally: SegmentationTally, names: tuple[str, ...] | None) -> dict[str, ClassIoU]:
    scores = intersection_over_union(tally.confusion).tolist()
    counts = tally.confusion.sum(1).tolist()
    return {
        names[index] if names else str(index): ClassIoU(iou=scores[index], count=counts[index])
        for index in present(tally.confusion).nonzero()[:, 0].tolist()
    }
