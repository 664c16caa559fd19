"""What `synthesize` puts around a stream: a picture, a count of labels, even classes."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from doublure.audits.optimisation_path import IMAGES, SHARES, answered
from doublure.core.protocols import Batch, InputContract, OptimisingStream, Stream
from doublure.engine.run_folder import write_whole
from doublure.reports.optimisation_picture import optimisation_picture
from doublure.sources.balanced import admit
from doublure.tasks.classification.summary import optimisation_record

# Below this share of images that the teacher assigns to their classes, there is a warning.
_RECOGNISED = 0.5
# Maximum draws as a multiple of the count; the rest is filled with images of any class.
_MOST_DRAWN = 10


class Followed:
    """A stream that draws a picture of the optimisation of its first images."""

    def __init__(
        self, stream: OptimisingStream, teacher: nn.Module, contract: InputContract, path: Path
    ) -> None:
        self._stream, self._teacher = stream, teacher
        self._contract, self._path = contract, path

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        if step > 0:
            return self._stream.draw(step, student)
        batch, path = self._stream.draw_followed(step, student, SHARES, IMAGES)
        record = optimisation_record(answered(path, self._teacher))
        write_whole(self._path, optimisation_picture(record, self._contract.names))
        return batch

    def state_dict(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state)


class Tally:
    """A stream that counts the images that the teacher assigns to their labels."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._right, self._count = 0.0, 0

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch = self._stream.draw(step, student)
        if "recognised" in batch.metrics:
            self._right += batch.metrics["recognised"].item() * len(batch.images)
            self._count += len(batch.images)
        return batch

    @property
    def told(self) -> str:
        """A note for the user; "" for images without labels."""
        if not self._count:
            return ""
        share = self._right / self._count
        way_out = (
            "; use more iterations (--set iterations=N), or a smaller weight of the statistics "
            "(--set features=W)"
        )
        return (
            f"the teacher assigns {share:.0%} of the images to their labels"
            f"{way_out if share < _RECOGNISED else ''}"
        )

    def state_dict(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state)


class Even:
    """A stream without the images of classes that are already complete."""

    def __init__(self, stream: Stream, teacher: nn.Module, classes: int, count: int) -> None:
        self._stream, self._teacher, self._count = stream, teacher, count
        self._kept = torch.zeros(classes, dtype=torch.int64)
        self._drawn = self.surplus = 0

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch = self._stream.draw(step, student)
        with torch.no_grad():  # for the images that will be written
            classes = self._teacher(to_bytes(batch.images) / 255).argmax(-1).cpu()
        wanted = admit(classes, self._kept, -(-self._count // len(self._kept)))
        fits = wanted
        if self._drawn >= _MOST_DRAWN * self._count:
            fits = torch.ones_like(wanted)
        fits = fits & (fits.cumsum(0) <= self._count - self._kept.sum())
        self.surplus += int((fits & ~wanted).sum())
        self._drawn += len(classes)
        self._kept += classes[fits].bincount(minlength=len(self._kept))
        labels = None if batch.labels is None else batch.labels[fits]
        return dataclasses.replace(
            batch, views={name: view[fits] for name, view in batch.views.items()}, labels=labels
        )

    def state_dict(self) -> dict[str, Any]:
        counts = {"kept": self._kept.clone(), "drawn": self._drawn, "surplus": self.surplus}
        return {"stream": self._stream.state_dict(), **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state["stream"])
        self._kept = state["kept"].clone()
        self._drawn, self.surplus = state["drawn"], state["surplus"]


def to_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)
