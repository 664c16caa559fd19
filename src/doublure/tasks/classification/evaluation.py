"""Evaluation of a network on data with labels, always in float32."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.protocols import Batch, image_batch
from doublure.core.statistics import wilson_interval
from doublure.data.datasets import Dataset, batches
from doublure.nets.features import device_of
from doublure.nets.memory_format import to_channels_last_
from doublure.nets.network import freeze
from doublure.nets.precision import full_float32
from doublure.tasks.classification.scores import Classification, ClassificationTally


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """Numbers of images and of correct predictions of one class."""

    accuracy: float
    correct: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of a network.

    Args:
        per_class: by class name, or by index without names; only classes with images.
        nll: negative log-likelihood in nats per image.
        calibration_error: expected calibration error in [0, 1].
        seconds: wall time of reading and prediction.
    """

    accuracy: float
    correct: int
    count: int
    per_class: Mapping[str, ClassAccuracy]
    nll: float
    calibration_error: float
    seconds: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return Wilson's interval around the accuracy."""
        return wilson_interval(self.correct, self.count, level)

    def to_json(self) -> dict[str, Any]:
        """Return the output of `evaluate --json`."""
        return {
            "accuracy": self.accuracy,
            "correct": self.correct,
            "count": self.count,
            "per_class": {name: asdict(score) for name, score in self.per_class.items()},
        }

    def lines(self) -> list[str]:
        """Return the output of `evaluate`."""
        low, high = self.interval()
        return [
            f"accuracy [bold]{self.accuracy:.2%}[/]  {self.correct:,} of {self.count:,}"
            f"  [dim]95 % interval {low:.1%} to {high:.1%}[/]"
        ]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the accuracy of every class, for a table."""
        rows: list[tuple[str, ...]] = [
            (name, f"{row.accuracy:.1%}", f"{row.count:,}") for name, row in self.per_class.items()
        ]
        return ("class", "accuracy", "count"), rows


def evaluate(
    model: nn.Module,
    data: Dataset,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Return the accuracy of `model` on `data`, in float32 and eval mode.

    The model's mode, precision and device are unchanged.

    Args:
        device: device of the computation; None for the model's.
    """
    if data.labels is None:
        raise ValueError("these data have no labels, and a score needs them")
    where = device_of(model) if device is None else torch.device(device)
    network = freeze(model).to(where, torch.float32)
    with full_float32(where):
        to_channels_last_(network)
    start = time.perf_counter()
    tally = Classification().tally(_answers(network, data, data.labels, batch_size, where))
    scores = tally.scores()
    return Evaluation(
        accuracy=scores["accuracy"].value,
        correct=int(tally.correct.sum()),
        count=scores["accuracy"].count,
        per_class=_per_class(tally, data.names),
        nll=scores["nll"].value,
        calibration_error=scores["calibration_error"].value,
        seconds=time.perf_counter() - start,
    )


@torch.no_grad()
def _answers(
    network: nn.Module, data: Dataset, labels: Tensor, batch_size: int, device: torch.device
) -> Iterator[tuple[Any, Batch]]:
    for pixels, place in batches(data, batch_size):
        images = pixels.to(device).float() / 255
        with full_float32(device):
            output = network(images)
        yield output, image_batch(images, labels=labels[place])


def _per_class(
    tally: ClassificationTally, names: tuple[str, ...] | None
) -> dict[str, ClassAccuracy]:
    named = dict(enumerate(names or ()))
    shared = {name for name, uses in Counter(named.values()).items() if uses > 1}
    scores = {}
    for index, (correct, count) in enumerate(
        zip(tally.correct.tolist(), tally.count.tolist(), strict=True)
    ):
        name = named.get(index, str(index))
        # ImageNet has two classes called "crane".
        label = f"{name} ({index})" if name in shared else name
        if count:
            scores[label] = ClassAccuracy(accuracy=correct / count, correct=correct, count=count)
    return scores
