"""A few real images: half of them for training, half of them for evaluation.

10 to 500 images, with or without labels, are split once, per class if they have labels, in the
order of a hash of the seed and each image's pixels; copies of an image are in the same part. Of n_c
distinct images of class c,

    floor(h (n_1 + ... + n_c)) - floor(h (n_1 + ... + n_(c-1)))

are for evaluation: in total a share h of the images, and in each class within one image of that.
The training images are drawn in shuffled epochs, like a whole set in `surrogate`. The evaluation
images are the held-out split; with labels, accuracy is measured on them. So few images give a wide
confidence interval: 25 of 50 correct is compatible with an accuracy of 37 to 63 %. Reports
therefore include the interval.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from doublure.core.protocols import InputContract, Source, StreamContext
from doublure.core.seeding import child
from doublure.data.datasets import Dataset, Part, open_data
from doublure.sources.augmenting import augmented
from doublure.sources.surrogate import SurrogateStream, content_hashes

LEAST, MOST = 10, 500


def divide_by_class(
    labels: Int64[Tensor, " count"], keys: Sequence[bytes], held_out: float
) -> tuple[Int64[Tensor, " teaching"], Int64[Tensor, " judging"]]:
    """Return the indices of the training images and of the evaluation images.

    Args:
        keys: one for each image, equal for copies; the smallest keys of a class are for evaluation.
            Copies with different labels belong to the class of the first one.
    """
    class_of: dict[bytes, int] = {}
    for key, label in zip(keys, labels.tolist(), strict=True):
        class_of.setdefault(key, label)
    evaluation_keys = set[bytes]()
    num_so_far = 0
    for label in sorted(set(class_of.values())):
        members = sorted(key for key, key_label in class_of.items() if key_label == label)
        num_so_far += len(members)
        # The small number guards against rounding: 0.3 of 10 must be 3.
        evaluation_keys.update(
            members[: math.floor(held_out * num_so_far + 1e-9) - len(evaluation_keys)]
        )
    evaluation_data = torch.tensor([key in evaluation_keys for key in keys])
    return (~evaluation_data).nonzero()[:, 0], evaluation_data.nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True)
class Few:
    """Source: the training part of a few real images.

    Args:
        data: an image folder, a SET, a .npz or builtin/digits, of 10 to 500 images.
        labels: whether batches have labels; the images must have them.
        held_out: share of the distinct images for evaluation; per class if there are labels.
        split_seed: seed of the split.
        skip_bad: skip and count unreadable files instead of raising.
    """

    data: str
    labels: bool = False
    held_out: float = 0.5
    split_seed: int = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must be in [0, 1), got {self.held_out}")

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.data,)

    def read(self, contract: InputContract) -> Dataset:
        """Return all images, with their labels if they have any.

        Raises:
            ValueError: too few, too many or unreadable images, or labels unknown to the network.
        """
        data = self._read(contract, labels=None)
        if not LEAST <= len(data) <= MOST:
            remedy = "add images" if len(data) < LEAST else "use --transfer, or remove images"
            raise ValueError(
                f"{self.data} has {len(data)} images, but few needs {LEAST} to {MOST}; {remedy}"
            )
        return data

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> SurrogateStream:
        data, training, evaluation = self._split(context.contract)
        if self.labels and data.labels is None:
            raise ValueError(f"{self.data} has no labels; set labels to false")
        places = training if context.split == "train" else evaluation
        if not len(places):
            raise ValueError(f"held_out is 0, so no image of {self.data} is held out; raise it")
        if not self.labels and data.labels is not None:
            data = self._read(context.contract, labels=False)
        return SurrogateStream(data, places, context, child(rng, context.split))

    def held_out_images(self, contract: InputContract) -> Part:
        """Return the images for evaluation, with their labels if they have any."""
        data, _, evaluation = self._split(contract)
        return Part(whole=data, places=evaluation)

    def evaluation_data(self, contract: InputContract) -> Part | None:
        """Return the labelled images for evaluation; None if there are none."""
        held_out = self.held_out_images(contract)
        return held_out if held_out.labels is not None and len(held_out) else None

    def _read(self, contract: InputContract, *, labels: bool | None) -> Dataset:
        return open_data(self.data, contract, labels=labels, skip_bad=self.skip_bad)

    def _split(self, contract: InputContract) -> tuple[Dataset, Tensor, Tensor]:
        """Return the images, and the indices of the training and the evaluation images."""
        data = self.read(contract)
        labels = torch.zeros(len(data), dtype=torch.int64) if data.labels is None else data.labels
        keys = [_key(self.split_seed, pixels) for pixels in content_hashes(data)]
        training, evaluation = divide_by_class(labels, keys, self.held_out)
        if self.held_out and not len(evaluation):
            raise ValueError(
                f"held_out={self.held_out} of {len(set(keys))} distinct images is 0; raise it"
            )
        return data, training, evaluation


def shown_few(few: Few, contract: InputContract) -> Source:
    """Return the source with random shifts, and flips of colour images."""
    return augmented(few, "mild", contract)


def _key(seed: int, pixels: bytes) -> bytes:
    return hashlib.blake2b(
        pixels, digest_size=8, salt=seed.to_bytes(8, "big", signed=True)
    ).digest()
