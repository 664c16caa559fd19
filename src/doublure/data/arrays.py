"""Images in one array, in memory or memory-mapped, and .npz files.

Pixels are uint8, N x H x W x C. They are resized to the network's size once if the result fits
`cache_bytes`, else batch by batch, so that memory does not grow with the set.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from doublure.core.protocols import InputContract
from doublure.data.resizing import check_fittable, colour_change, fit_pixels, size_change

Indices = Sequence[int] | Tensor | np.ndarray

# Decoding and resizing release the interpreter's lock; with more threads the disk is the limit.
_MAX_THREADS = 16
# Items per task of a thread: a task per small image would cost more than reading it.
_CHUNK = 64

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayImages:
    """A dataset over one array; satisfies `datasets.Dataset`."""

    pixels: UInt8[np.ndarray, "count height width image_channels"]
    contract: InputContract
    labels: Int64[Tensor, " count"] | None
    names: tuple[str, ...] | None
    digest: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, indices: Indices) -> UInt8[Tensor, "batch channels height width"]:
        """Return the images at `indices`, in the contract's size and channels."""
        return channels_first(_fitted(take(self.pixels, as_positions(indices)), self.contract))


def array_images(
    pixels: UInt8[np.ndarray, "count height width image_channels"],
    contract: InputContract,
    *,
    labels: Int64[Tensor, " labels"] | None,
    names: tuple[str, ...] | None,
    digest: str,
    where: str,
    cache_bytes: int,
) -> ArrayImages:
    """Return the dataset over `pixels`, or raise if the contract does not allow them.

    Args:
        where: origin of the pixels, for messages.
    """
    check_fittable(contract)
    if len(pixels) == 0:
        raise ValueError(f"{where} holds no images")
    if labels is not None:
        check_labels(labels, len(pixels), contract.classes, where)
    try:
        change = colour_change(pixels.shape[3], contract.channels)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    changes = [change, size_change((pixels.shape[1], pixels.shape[2]), contract)]
    notes = [f"{len(pixels)} {change}" for change in changes if change is not None]
    needed = len(pixels) * contract.channels * contract.size[0] * contract.size[1]
    if notes and needed <= cache_bytes:
        pixels = _fitted(np.asarray(pixels), contract)
    return ArrayImages(
        pixels=pixels,
        contract=contract,
        labels=labels,
        names=contract.names or names,
        digest=digest,
        notes=tuple(notes),
    )


def open_npz(
    path: Path, contract: InputContract, *, labels: bool | None, cache_bytes: int
) -> ArrayImages:
    """Return the dataset in a .npz file: x uint8 or float in [0, 1], N x H x W (x C); y integers.

    Args:
        labels: True requires y, False ignores it, None reads it if present.
    """
    arrays = read_npz(path, labels=labels)
    return array_images(
        _as_pixels(arrays["x"], path),
        contract,
        labels=_as_labels(arrays["y"], path) if "y" in arrays else None,
        names=None,
        digest=_npz_digest(path),
        where=str(path),
        cache_bytes=cache_bytes,
    )


def read_npz(path: Path, *, labels: bool | None) -> dict[str, np.ndarray]:
    """Return x, and y if it is requested and present.

    Raises:
        ValueError: the file cannot be read, or lacks one of them.
    """
    arrays = _read_npz(path, ("x",) if labels is False else ("x", "y"))
    if "x" not in arrays:
        raise ValueError(f"{path} has no array 'x': images are expected under that name")
    if labels and "y" not in arrays:
        raise ValueError(f"{path} has no array 'y', so it has no labels")
    return arrays


def check_labels(labels: Int64[Tensor, " labels"], count: int, classes: int, where: str) -> None:
    """Raise unless there is one label per image, each an output of the network."""
    if len(labels) != count:
        raise ValueError(f"{where} has {count} images but {len(labels)} labels")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"{where} has labels from {low} to {high}, but the network has {classes} classes "
            f"(0 to {classes - 1})"
        )


def as_positions(indices: Indices) -> np.ndarray:
    """Return indices as int64 positions, from a list, a tensor or an array."""
    return np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices, dtype=np.int64)


def take(
    pixels: UInt8[np.ndarray, "count height width channels"], positions: np.ndarray
) -> UInt8[np.ndarray, "batch height width channels"]:
    """Return a copy of the images at `positions`; images of a memory map are read from its file.

    Pages read through the map would count as memory of this process, with large pages megabytes per
    image, until the whole file counts.
    """
    if not isinstance(pixels, np.memmap):
        return np.asarray(pixels[positions])
    assert pixels.filename is not None
    every = range(len(pixels))  # so that negative positions mean the same as for an array
    taken = np.empty((len(positions), *pixels.shape[1:]), dtype=np.uint8)
    with Path(pixels.filename).open("rb", buffering=0) as file:
        for image, position in zip(taken, positions.tolist(), strict=True):
            file.seek(pixels.offset + every[position] * image.nbytes)
            if file.readinto(image.data) != image.nbytes:
                raise ValueError(f"{pixels.filename} ends before image {position}")
    return taken


def channels_first(
    pixels: UInt8[np.ndarray, "batch height width channels"],
) -> UInt8[Tensor, "batch channels height width"]:
    """Return a copy of the pixels as an NCHW tensor."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, 3, 1)))


def in_threads(function: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
    """Return `function` of every item, in order, computed by several threads."""
    threads = min(_MAX_THREADS, os.cpu_count() or 1, -(-len(items) // _CHUNK))
    if threads <= 1:
        return [function(item) for item in items]
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        done = pool.map(lambda chunk: [function(item) for item in chunk], chunks)
        return [made for chunk in done for made in chunk]


def _fitted(pixels: np.ndarray, contract: InputContract) -> np.ndarray:
    if pixels.shape[1:] == (*contract.size, contract.channels):
        return pixels
    fitted = np.empty((len(pixels), *contract.size, contract.channels), dtype=np.uint8)

    def place(position: int) -> None:
        fitted[position] = fit_pixels(pixels[position], contract)

    in_threads(place, range(len(pixels)))
    return fitted


def _read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    # Object arrays would be unpickled, which can run code; numpy refuses them here.
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as .npz ({error})") from error


def _npz_digest(path: Path) -> str:
    # The checksums of the zip directory, so nothing is read twice.
    with zipfile.ZipFile(path) as file:
        members = sorted((item.filename, item.file_size, item.CRC) for item in file.infolist())
    return hashlib.blake2b(repr(members).encode(), digest_size=16).hexdigest()


def _as_pixels(x: np.ndarray, path: Path) -> np.ndarray:
    if x.ndim not in (3, 4):
        raise ValueError(f"{path}: x must be N x H x W or N x H x W x C, got shape {x.shape}")
    if x.ndim == 3:
        x = x[..., None]
    elif x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        raise ValueError(
            f"{path}: x of shape {x.shape} looks like N x C x H x W; put channels last"
        )
    if x.dtype == np.uint8 or x.size == 0:
        return x.astype(np.uint8, copy=False)
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{path}: x must be uint8 or float in [0, 1], got {x.dtype}")
    low, high = x.min(), x.max()
    if not (low >= 0 and high <= 1):  # also true of NaN
        raise ValueError(f"{path}: float x must lie in [0, 1], got values from {low:g} to {high:g}")
    return _to_bytes(x)


def _to_bytes(x: np.ndarray) -> np.ndarray:
    pixels = np.empty(x.shape, dtype=np.uint8)
    for position, image in enumerate(x):  # a float copy of the whole set would be large
        pixels[position] = np.rint(image.astype(np.float32) * 255)
    return pixels


def _as_labels(y: Any, path: Path) -> Tensor:
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{path}: y must be N integers, got {y.dtype} of shape {y.shape}")
    return torch.from_numpy(y.astype(np.int64))
