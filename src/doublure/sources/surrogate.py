"""Any image set in place of the training data: a folder, a SET or a .npz, in shuffled epochs.

The images of step s have the positions [s B, (s + 1) B) in an endless sequence of epochs, each a
permutation of the set from the seed and the epoch's number, where B is the batch size over all
processes. So each image occurs once per epoch, and the stream has no state.

A share of the images is held out, chosen by a hash of each image's pixels at the network's input:
copies of an image are in the same part, and the part depends on little else than the image. The
hashes are computed once, when the source is opened.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.protocols import Batch, StreamContext, image_batch
from doublure.core.seeding import child
from doublure.data.datasets import Dataset, batches, open_data
from doublure.sources.epochs import Epochs

CARD = Card(
    paper="Frank, Davis: What Makes a Good Dataset for Knowledge Distillation?, arXiv:2411.12817",
    needs=("logits",),
    reported={
        "CIFAR-10, ResNet-50 to ResNet-18, original data": 95.98,
        "the same with ImageNet without CIFAR-10's classes": 94.69,
        "CIFAR-100, original data": 78.35,
        "CIFAR-100 with ImageNet without its classes": 76.66,
    },
)

# A share of a small set is too few: at least this many are held out, or half of the set.
LEAST_HELD_OUT = 32
_HASHED_AT_ONCE = 1024


def content_hashes(data: Dataset) -> list[bytes]:
    """Return a hash of each image's pixels."""
    return [
        hashlib.blake2b(image.numpy().tobytes(), digest_size=8).digest()
        for images, _ in batches(data, _HASHED_AT_ONCE)
        for image in images
    ]


def hold_out(hashes: Sequence[bytes], share: float) -> tuple[Tensor, Tensor]:
    """Return the indices of the training images and of the held-out images.

    Distinct images are sorted by hash and the first ones are held out: the given share, but at
    least `LEAST_HELD_OUT`, or half of them if there are fewer than twice as many.
    """
    distinct = sorted(set(hashes))
    if len(distinct) < 2:
        raise ValueError(
            f"{len(hashes)} images of which {len(distinct)} are distinct cannot be split; add "
            f"images, or set held_out to 0"
        )
    least = min(LEAST_HELD_OUT, len(distinct) // 2)
    count = min(max(round(share * len(distinct)), least), len(distinct) - 1)
    first_kept = distinct[count]
    held = torch.tensor([value < first_kept for value in hashes])
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Source: the images of a set in place of the teacher's training data.

    Args:
        data: an image folder, a SET, a .npz or builtin/digits.
        labels: whether batches have labels; the images must have them.
        held_out: share of the distinct images in the held-out split.
        skip_bad: skip and count unreadable files instead of raising.
    """

    data: str
    labels: bool = False
    held_out: float = 0.1
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must be in [0, 1), got {self.held_out}")

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.data,)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "SurrogateStream":
        data = open_data(
            self.data, context.contract, split="train", labels=self.labels, skip_bad=self.skip_bad
        )
        if self.labels and data.labels is None:
            raise ValueError(f"{self.data} has no labels; set labels to false")
        places = torch.arange(len(data))
        if self.held_out > 0:
            train, held = hold_out(content_hashes(data), self.held_out)
            places = train if context.split == "train" else held
        elif context.split == "held_out":
            raise ValueError(f"held_out is 0, so no image of {self.data} is held out; raise it")
        return SurrogateStream(data, places, context, child(rng, context.split))


class SurrogateStream:
    """Stream of shuffled epochs over some images of a set, with the set's `notes` and `digest`."""

    def __init__(
        self,
        data: Dataset,
        places: Int64[Tensor, " places"],
        context: StreamContext,
        rng: torch.Generator,
    ) -> None:
        self._data = data
        self._epochs = Epochs(places, rng)
        self._context = context
        self.notes, self.digest = data.notes, data.digest

    def __len__(self) -> int:
        """Return the number of images in an epoch."""
        return len(self._epochs)

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        context = self._context
        start = (step * context.world + context.rank) * context.batch_size
        index = self._epochs.at(start, start + context.batch_size)
        images = self._data.images(index).to(context.device, non_blocking=True).float().div_(255)
        labels = None
        if self._data.labels is not None:
            labels = self._data.labels[index].to(context.device, non_blocking=True)
        return image_batch(images, labels=labels, index=index.to(context.device, non_blocking=True))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"a surrogate stream has no state, got {sorted(state)}")
