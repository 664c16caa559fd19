"""Datasets: the meanings of DATA on a command line, prepared for one network.

builtin/digits   scikit-learn's digits; `builtin/digits:train`, `:test` or `:all` pick a part
a folder         with a folder per class, or with images and no labels; where it is divided
                 into `train` and `test` (or `val`), the part asked for
a SET            what `image_set` writes
a .npz           x uint8 or float in [0, 1], N x H x W (x C); y integers
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from doublure.core.checks import one_of
from doublure.core.protocols import InputContract
from doublure.data.arrays import ArrayImages, Indices, array_images, open_npz
from doublure.data.class_folders import find_split
from doublure.data.digits import DigitsSplit, open_digits
from doublure.data.image_folder import open_image_folder
from doublure.data.image_set import is_begun, read_image_set

# Maximum memory for decoded images: all of CIFAR-10 is 0.17 GiB, 7000 photographs of 224x224 are 1
# GiB.
CACHE_BYTES = 2**30

_BUILTIN = "builtin/"


@runtime_checkable
class Dataset(Protocol):
    """A fixed set of images, sized for one network.

    `digest` identifies the content cheaply; `notes` are lines for the user: changes of the images,
    and how class names were read.
    """

    @property
    def labels(self) -> Int64[Tensor, " count"] | None: ...
    @property
    def names(self) -> tuple[str, ...] | None: ...
    @property
    def digest(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def images(self, indices: Indices) -> UInt8[Tensor, "batch channels height width"]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A subset of a dataset, with labels; satisfies `Dataset`."""

    whole: Dataset
    places: Int64[Tensor, " part"]

    @property
    def labels(self) -> Int64[Tensor, " part"] | None:
        return None if self.whole.labels is None else self.whole.labels[self.places]

    @property
    def names(self) -> tuple[str, ...] | None:
        return self.whole.names

    @property
    def digest(self) -> str:
        return self.whole.digest

    @property
    def notes(self) -> tuple[str, ...]:
        return self.whole.notes

    def __len__(self) -> int:
        return len(self.places)

    def images(self, indices: Indices) -> UInt8[Tensor, "batch channels height width"]:
        return self.whole.images(self.places[torch.as_tensor(indices)])


def open_data(
    spec: str | Path,
    contract: InputContract,
    *,
    split: Literal["train", "test"] = "train",
    labels: bool | None = None,
    skip_bad: bool = False,
    cache_bytes: int = CACHE_BYTES,
) -> Dataset:
    """Return the dataset named `spec`, for a network with `contract`.

    Args:
        split: part of the data, if they have parts; other data are read whole.
        labels: True requires them, False ignores them, None reads them if present.
        skip_bad: skip and count unreadable image files instead of raising.
        cache_bytes: maximum size of decoded images in memory; larger sets are decoded batch by
            batch.
    """
    if str(spec).startswith(_BUILTIN):
        return _open_builtin(str(spec), contract, split, labels, cache_bytes)
    path = Path(spec)
    if not path.exists():
        raise ValueError(
            f"there is no '{spec}'; data are builtin/digits, a folder of images, a SET or a .npz"
        )
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise ValueError(f"{path} is neither a folder nor a .npz file")
        return open_npz(path, contract, labels=labels, cache_bytes=cache_bytes)
    if is_begun(path):
        return _open_image_set(path, contract, labels, cache_bytes)
    return open_image_folder(
        find_split(path, split), contract, labels=labels, skip_bad=skip_bad, cache_bytes=cache_bytes
    )


def batches(
    data: Dataset, batch_size: int
) -> Iterator[tuple[UInt8[Tensor, "batch channels height width"], slice]]:
    """Yield all images in order with their index; the next batch is read in the background."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    places = [
        slice(start, min(start + batch_size, len(data)))
        for start in range(0, len(data), batch_size)
    ]

    def read(place: slice) -> Tensor:
        return data.images(torch.arange(place.start, place.stop))

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, places[0])
        for place, following in zip(places, [*places[1:], None], strict=True):
            images = coming.result()
            if following is not None:
                coming = pool.submit(read, following)
            yield images, place


def _open_builtin(
    spec: str,
    contract: InputContract,
    split: Literal["train", "test"],
    labels: bool | None,
    cache_bytes: int,
) -> ArrayImages:
    name, _, part = spec.removeprefix(_BUILTIN).partition(":")
    one_of("builtin data", name, ("digits",))
    chosen: DigitsSplit = split
    if part:
        one_of("part of builtin/digits", part, get_args(DigitsSplit))
        chosen = part  # type: ignore[assignment]
    return open_digits(contract, split=chosen, labels=labels is not False, cache_bytes=cache_bytes)


def _open_image_set(
    folder: Path, contract: InputContract, labels: bool | None, cache_bytes: int
) -> ArrayImages:
    found = read_image_set(folder)
    if labels and found.labels is None:
        raise ValueError(f"{folder} has no labels.npy, so it has no labels")
    take = found.labels is not None and labels is not False
    return array_images(
        found.images,
        contract,
        labels=torch.from_numpy(found.labels) if take else None,
        names=None,
        digest=found.digest,
        where=str(folder),
        cache_bytes=cache_bytes,
    )
