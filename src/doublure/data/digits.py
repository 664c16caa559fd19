"""scikit-learn's handwritten digits: 1797 real images, 8x8, grey, on every machine.

The split is fixed: within each class the images are ordered by a hash of their position and the
first ones are the test set, in proportion to the class's size.
"""

import hashlib
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from doublure.core.protocols import InputContract
from doublure.core.seeding import child_seed
from doublure.data.arrays import ArrayImages, array_images

DigitsSplit = Literal["train", "test", "all"]
NAMES = tuple("0123456789")

_TEST_COUNT = 500
_SPLIT_SEED = 0
# A pixel is the number of dark pixels in a 4x4 block of the scan, from 0 to 16.
_LEVELS = 16


def digits(
    split: DigitsSplit,
) -> tuple[UInt8[np.ndarray, "count 8 8 1"], Int64[Tensor, " count"]]:
    """Return images and labels: 1297 for training, 500 for testing, or all in original order."""
    from sklearn.datasets import load_digits  # slow to import, so only here

    raw = load_digits()
    pixels = np.rint(raw.images * 255 / _LEVELS).astype(np.uint8)[..., None]
    labels = torch.from_numpy(raw.target.astype(np.int64))
    chosen = _split(labels, split)
    return pixels[chosen.numpy()], labels[chosen]


def open_digits(
    contract: InputContract, *, split: DigitsSplit, labels: bool, cache_bytes: int
) -> ArrayImages:
    """Return the digits as a dataset for a network of `contract`."""
    pixels, targets = digits(split)
    content = pixels.tobytes() + targets.numpy().tobytes()
    return array_images(
        pixels,
        contract,
        labels=targets if labels else None,
        names=NAMES,
        digest=hashlib.blake2b(content, digest_size=16).hexdigest(),
        where=f"builtin/digits:{split}",
        cache_bytes=cache_bytes,
    )


def _split(labels: Int64[Tensor, " count"], split: DigitsSplit) -> Int64[Tensor, " chosen"]:
    in_test = torch.zeros(len(labels), dtype=torch.bool)
    for label, quota in enumerate(_quotas(torch.bincount(labels))):
        members = (labels == label).nonzero().flatten().tolist()
        members.sort(key=lambda position: child_seed(_SPLIT_SEED, "digits", position))
        in_test[members[:quota]] = True
    keep = {"test": in_test, "train": ~in_test, "all": torch.ones_like(in_test)}
    return keep[split].nonzero().flatten()


def _quotas(counts: Int64[Tensor, " classes"]) -> list[int]:
    exact = counts.double() * _TEST_COUNT / counts.sum()
    quotas = exact.floor().long()
    # Largest remainders round up until the test set is full.
    missing = _TEST_COUNT - int(quotas.sum())
    quotas[(exact - quotas).argsort(descending=True, stable=True)[:missing]] += 1
    return quotas.tolist()
