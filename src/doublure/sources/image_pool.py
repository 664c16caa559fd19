"""A pool of images as bytes, in memory or in a file: what costs much to make is shown again.

A pool is only ever appended to, so a checkpoint need not hold it: a file's state is how much of it
counts, and a checksum of that. What was appended after the checkpoint is cut off when a run goes
on, and drawn again to the same bytes. In memory, the state is the images themselves.
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

Bytes = UInt8[Tensor, "batch channels height width"]


class MemoryPool:
    """Images as bytes in memory, only ever appended to; a checkpoint holds them all."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._images = torch.empty(shape, dtype=torch.uint8)
        self._filled = 0

    def __len__(self) -> int:
        """Return how many images there are."""
        return self._filled

    def append(self, images: Bytes) -> None:
        self._images[self._filled : self._filled + len(images)] = images
        self._filled += len(images)

    def read(self, picks: Int[Tensor, " picks"]) -> Bytes:
        """Return copies of the images at these places."""
        return self._images[picks]

    def state_dict(self) -> dict[str, Any]:
        return {"images": self._images[: self._filled].clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._filled = 0
        self.append(state["images"])


class FilePool:
    """Images as bytes in a file, only ever appended to; a checkpoint says how much of it counts.

    Written as a file and read as a map: a full disk is an error, where a map would be a crash.
    """

    def __init__(self, shape: tuple[int, ...], path: Path) -> None:
        self._shape, self._path = shape[1:], path
        self._filled = self._checksum = 0

    def __len__(self) -> int:
        """Return how many images there are."""
        return self._filled

    def append(self, images: Bytes) -> None:
        if not len(images):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        data = images.contiguous().numpy().tobytes()
        with self._path.open("ab" if self._filled else "wb") as file:
            file.write(data)
        self._checksum = zlib.crc32(data, self._checksum)
        self._filled += len(images)
        self._map = self._open()

    def read(self, picks: Int[Tensor, " picks"]) -> Bytes:
        """Return copies of the images at these places."""
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
            raise ValueError(f"{self._path} lacks images of this run's pool; start the run afresh")
        # What came after the checkpoint will be drawn again, to the same bytes.
        os.truncate(self._path, size)
        self._map = self._open()
        if zlib.crc32(self._map.data) != self._checksum:
            raise ValueError(f"{self._path} is not this run's pool; start the run afresh")

    def _open(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        shape = (self._filled, *self._shape)
        return np.asarray(np.memmap(self._path, dtype=np.uint8, mode="r", shape=shape))


ImagePool = MemoryPool | FilePool


def open_pool(context: StreamContext, rng: torch.Generator, capacity: int) -> ImagePool:
    """Return an empty pool where the site wants it; held-out ones are small and stay in memory."""
    shape = (capacity, context.contract.channels, *context.contract.size)
    if context.scratch is None or context.split == "held_out":
        return MemoryPool(shape)
    # The seed tells the pools of two sources of one run apart.
    name = f"pool-{rng.initial_seed():016x}-rank{context.rank}.u8"
    return FilePool(shape, context.scratch / name)


def check_shape(images: Tensor, context: StreamContext, around: str) -> None:
    """Raise unless images are of the contract's shape.

    Args:
        around: the wrapper that keeps the pool, for the message.
    """
    expected = (context.contract.channels, *context.contract.size)
    if tuple(images.shape[1:]) != expected:
        raise ValueError(
            f"the pool holds images of shape {expected}, but the inner source drew "
            f"{tuple(images.shape[1:])}; put what changes the size around {around}"
        )


def to_bytes(images: Float[Tensor, "batch channels height width"]) -> Bytes:
    """Return images in [0, 1] as bytes on the CPU."""
    if not images.isfinite().all():
        raise ValueError("the inner source drew values that are not finite")
    return (images.clamp(0, 1) * 255).round().byte().cpu()


def to_images(values: Bytes, device: torch.device) -> Float[Tensor, "batch channels height width"]:
    """Return bytes as images in [0, 1] on a device."""
    return values.to(device, non_blocking=True).float() / 255
