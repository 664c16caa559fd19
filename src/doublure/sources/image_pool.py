"""A pool of images as bytes, in memory or in a file, so that expensive images are used repeatedly.

Images are only appended. A checkpoint therefore does not contain a file pool: its state is the
number of valid images, and their checksum. On resume the images appended after the checkpoint are
cut off; the run draws them again, with the same bytes. The state of a memory pool is its images.
"""

import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from doublure.core.protocols import StreamContext
from doublure.data.own_files import make_folder, open_own

Bytes = UInt8[Tensor, "batch channels height width"]


class MemoryPool:
    """Images as bytes in memory, append-only; a checkpoint contains all of them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._images = torch.empty(shape, dtype=torch.uint8)
        self._filled = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return self._filled

    def append(self, images: Bytes) -> None:
        self._images[self._filled : self._filled + len(images)] = images
        self._filled += len(images)

    def read(self, picks: Int[Tensor, " picks"]) -> Bytes:
        """Return copies of the images at these indices."""
        return self._images[picks]

    def state_dict(self) -> dict[str, Any]:
        return {"images": self._images[: self._filled].clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._filled = 0
        self.append(state["images"])


class FilePool:
    """Images as bytes in a file, append-only; a checkpoint has the number of valid images.

    Images are written with file operations and read through a memory map: on a full disk a write
    raises an error, where a write through a map would crash the process.
    """

    def __init__(self, shape: tuple[int, ...], path: Path) -> None:
        self._shape, self._path = shape[1:], path
        self._filled = self._checksum = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return self._filled

    def append(self, images: Bytes) -> None:
        if not len(images):
            return
        make_folder(self._path.parent)
        data = images.contiguous().numpy().tobytes()
        with open_own(self._path, "ab" if self._filled else "wb") as file:
            file.write(data)
        self._checksum = zlib.crc32(data, self._checksum)
        self._filled += len(images)
        self._map = self._open()

    def read(self, picks: Int[Tensor, " picks"]) -> Bytes:
        """Return copies of the images at these indices."""
        return torch.from_numpy(self._map[picks.numpy()])

    def state_dict(self) -> dict[str, Any]:
        if self._filled:
            with self._path.open("rb+") as file:
                os.fsync(file.fileno())
        return {"filled": self._filled, "checksum": self._checksum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._filled, self._checksum = state["filled"], state["checksum"]
        if not self._filled:
            return
        size = self._filled * math.prod(self._shape)
        if not self._path.is_file() or self._path.stat().st_size < size:
            raise ValueError(f"{self._path} lacks images of this run's pool; restart the run")
        # Images appended after the checkpoint will be drawn again, with the same bytes.
        os.truncate(self._path, size)
        self._map = self._open()
        if zlib.crc32(self._map.data) != self._checksum:
            raise ValueError(f"{self._path} is not this run's pool; restart the run")

    def _open(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        shape = (self._filled, *self._shape)
        return np.asarray(np.memmap(self._path, dtype=np.uint8, mode="r", shape=shape))


ImagePool = MemoryPool | FilePool


def open_pool(context: StreamContext, rng: torch.Generator, capacity: int) -> ImagePool:
    """Return an empty pool, in the scratch folder if there is one; held-out pools in memory."""
    shape = (capacity, context.contract.channels, *context.contract.size)
    if context.scratch is None or context.split == "held_out":
        return MemoryPool(shape)
    # The seed distinguishes the pools of several sources of a run.
    name = f"pool-{rng.initial_seed():016x}-rank{context.rank}.u8"
    return FilePool(shape, context.scratch / name)


def check_shape(images: Tensor, context: StreamContext, around: str) -> None:
    """Raise unless images have the contract's shape.

    Args:
        around: name of the wrapper with the pool, for the message.
    """
    expected = (context.contract.channels, *context.contract.size)
    if tuple(images.shape[1:]) != expected:
        raise ValueError(
            f"the pool holds images of shape {expected}, but the inner source drew "
            f"{tuple(images.shape[1:])}; change the size outside of {around}"
        )


def to_bytes(images: Float[Tensor, "batch channels height width"]) -> Bytes:
    """Return images in [0, 1] as bytes on the CPU."""
    if not images.isfinite().all():
        raise ValueError("the inner source drew values that are not finite")
    return (images.clamp(0, 1) * 255).round().byte().cpu()


def to_images(values: Bytes, device: torch.device) -> Float[Tensor, "batch channels height width"]:
    """Return bytes as images in [0, 1] on a device."""
    return values.to(device, non_blocking=True).float() / 255
