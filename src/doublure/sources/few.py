"""A few real images: half of them teach, half of them judge.

Who has no data often has some images: 10 to 500 of them, with labels or without. They are divided
once, class by class where they have labels, in the order of a hash of the seed and of each image's
pixels; copies of an image are on the same side. Of n_c distinct images of class c, a share h of

    floor(h (n_1 + ... + n_c)) - floor(h (n_1 + ... + n_(c-1)))

judge: all in all h of the images, and of each class within one image of that. Those that teach are
shown in shuffled epochs, as `surrogate` shows a whole set. Those that judge are what the held-out
split shows, and what accuracy is measured on where there are labels. So few say little: 25 of 50
right may be an accuracy of 37 to 63 %, which is why an interval stands beside it.
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
    """Return the places of the images that teach and of those that judge.

    Args:
        keys: one for each image, the same for copies; of a class, those that come first judge.
            Copies with unlike labels count for the class of the first.
    """
    class_of: dict[bytes, int] = {}
    for key, label in zip(keys, labels.tolist(), strict=True):
        class_of.setdefault(key, label)
    judging = set[bytes]()
    seen = 0
    for label in sorted(set(class_of.values())):
        members = sorted(key for key, its in class_of.items() if its == label)
        seen += len(members)
        # A share such as 0.3 of ten is three, whatever its last bit.
        judging.update(members[: math.floor(held_out * seen + 1e-9) - len(judging)])
    evaluation_data = torch.tensor([key in judging for key in keys])
    return (~evaluation_data).nonzero()[:, 0], evaluation_data.nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True)
class Few:
    """Source: those of a few real images that teach.

    Args:
        data: an image folder, a SET, a .npz or builtin/digits, of 10 to 500 images.
        labels: also hand on the labels, which the images must then have.
        held_out: share of the distinct images that judge; by class where there are labels.
        split_seed: another one divides them otherwise.
        skip_bad: leave unreadable files out and count them, instead of raising.
    """

    data: str
    labels: bool = False
    held_out: float = 0.5
    split_seed: int = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must lie in [0, 1), got {self.held_out}")

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.data,)

    def opened(self, contract: InputContract) -> Dataset:
        """Return all of them, with their labels where they have any.

        Raises:
            ValueError: they are no few, cannot be read, or have labels that the network has not.
        """
        data = self._read(contract, labels=None)
        if not LEAST <= len(data) <= MOST:
            way_out = (
                "give more" if len(data) < LEAST else "name them with --transfer, or give less"
            )
            raise ValueError(
                f"{self.data} has {len(data)} images; a few are {LEAST} to {MOST}; {way_out}"
            )
        return data

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> SurrogateStream:
        data, teaching, judging = self._divided(context.contract)
        if self.labels and data.labels is None:
            raise ValueError(f"{self.data} has no labels; set labels to false")
        places = teaching if context.split == "train" else judging
        if not len(places):
            raise ValueError(f"held_out is 0, so nothing of {self.data} is held out; raise it")
        if not self.labels and data.labels is not None:
            data = self._read(context.contract, labels=False)
        return SurrogateStream(data, places, context, child(rng, context.split))

    def kept_apart(self, contract: InputContract) -> Part:
        """Return the images that judge a student, with labels where they have any."""
        data, _, judging = self._divided(contract)
        return Part(whole=data, places=judging)

    def judging(self, contract: InputContract) -> Part | None:
        """Return the labelled images that judge a student; None where there are none."""
        kept = self.kept_apart(contract)
        return kept if kept.labels is not None and len(kept) else None

    def _read(self, contract: InputContract, *, labels: bool | None) -> Dataset:
        return open_data(self.data, contract, labels=labels, skip_bad=self.skip_bad)

    def _divided(self, contract: InputContract) -> tuple[Dataset, Tensor, Tensor]:
        """Return the images, and the places of those that teach and of those that judge."""
        data = self.opened(contract)
        labels = torch.zeros(len(data), dtype=torch.int64) if data.labels is None else data.labels
        keys = [_key(self.split_seed, pixels) for pixels in content_hashes(data)]
        teaching, judging = divide_by_class(labels, keys, self.held_out)
        if self.held_out and not len(judging):
            raise ValueError(
                f"held_out {self.held_out} of {len(set(keys))} distinct images is none; raise it"
            )
        return data, teaching, judging


def shown_few(few: Few, contract: InputContract) -> Source:
    """Return a few images as they are shown: shifted, and mirrored where in colour, ever anew."""
    return augmented(few, "mild", contract)


def _key(seed: int, pixels: bytes) -> bytes:
    return hashlib.blake2b(
        pixels, digest_size=8, salt=seed.to_bytes(8, "big", signed=True)
    ).digest()
