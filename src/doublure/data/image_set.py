"""The SET on disk: uint8 images in one file, drawn once and read from a memory map.

    images.npy   uint8, N x H x W x C
    labels.npy   int64, N, if the source has labels
    set.json     source, settings, seed, counts, digest; written last: a set with it is complete

During writing, `progress.json` holds the number of images that are safely on disk. It is replaced
only after the images have been flushed, so an interrupted writer resumes after the last complete
shard. The digest is a chain, d = blake2b(d, image, label), independent of the shards. The memory
needed is that of one shard.
"""

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from doublure.core.checks import positive
from doublure.data.arrays import take
from doublure.data.own_files import make_folder, open_own, whole_file

FORMAT = 1

_IMAGES, _LABELS = "images.npy", "labels.npy"
_SET, _PROGRESS = "set.json", "progress.json"
# Number of images per read in `verify`.
_CHUNK = 256


class ImageSetError(ValueError):
    """A SET is missing, unfinished, damaged or does not fit the request."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """A finished SET; `images` is a read-only memory map.

    Args:
        counts: numbers of "images" and "labels", and other counts of the writer.
        digest: digest of all images and labels, in order.
    """

    folder: Path
    images: UInt8[np.ndarray, "count height width channels"]
    labels: Int64[np.ndarray, " count"] | None
    source: str
    settings: Mapping[str, Any]
    seed: int
    counts: Mapping[str, int]
    digest: str

    def __len__(self) -> int:
        return len(self.images)

    def verify(self) -> None:
        """Read all images once and raise unless the digest still matches."""
        digest = _first_digest(self.images.shape[1:], self.labels is not None)
        for start in range(0, len(self), _CHUNK):
            positions = np.arange(start, min(start + _CHUNK, len(self)))
            for position, image in zip(positions, take(self.images, positions), strict=True):
                label = None if self.labels is None else self.labels[position]
                digest = _next_digest(digest, image, label)
        if digest.hex() != self.digest:
            raise ImageSetError(f"{self.folder} has changed since it was written; draw it again")


class ImageSetWriter:
    """Writes a SET shard by shard; a new writer on the same folder resumes.

    Args:
        count: number of images in the finished set.
        size: height and width.
        labels: whether every shard comes with labels.
        source, settings, seed: origin of the images; resuming with other values is refused.

    Raises:
        ImageSetError: if the folder holds a finished set, or an unfinished one with other
            arguments.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        size: tuple[int, int],
        channels: int,
        labels: bool,
        *,
        source: str,
        settings: Mapping[str, Any],
        seed: int,
    ) -> None:
        positive("count", count)
        self.folder = folder
        self.count = count
        self._shape = (*size, channels)
        self._has_labels = labels
        made_by = {"source": source, "settings": dict(settings), "seed": seed}
        holds = {"count": count, "size": size, "channels": channels, "labels": labels}
        # Through JSON, so that a plan equals itself after reading it back.
        self._plan = json.loads(json.dumps({"format": FORMAT, **made_by, **holds}))
        self._written = 0
        self._digest = _first_digest(self._shape, labels)
        if is_image_set(folder):
            raise ImageSetError(f"{folder} already holds a finished set; choose another folder")
        if (folder / _PROGRESS).exists():
            self._go_on()
        else:
            self._begin()

    @property
    def written(self) -> int:
        """Number of images that are safely on disk: the start of the next shard."""
        return self._written

    def append(
        self,
        images: UInt8[Tensor, "shard channels height width"],
        labels: Int64[Tensor, " shard"] | None = None,
    ) -> None:
        """Write one shard; when this returns, the shard is on disk.

        Raises:
            ImageSetError: if the shard does not fit the set.
            OSError: if the disk fails; earlier shards stay intact.
        """
        pixels = np.ascontiguousarray(images.detach().cpu().permute(0, 2, 3, 1).numpy())
        targets = None if labels is None else labels.detach().cpu().numpy().astype("<i8")
        self._check(pixels, targets)
        digest = self._digest
        for position, image in enumerate(pixels):
            digest = _next_digest(digest, image, None if targets is None else targets[position])
        try:
            self._extend(_IMAGES, pixels)
            if targets is not None:
                self._extend(_LABELS, targets)
            self._note(self._written + len(pixels), digest)
        except OSError as error:
            raise OSError(
                f"cannot write images {self._written} to {self._written + len(pixels)} of "
                f"{self.count} to {self.folder} ({error.strerror or error}); the first "
                f"{self._written} are safe: free disk space and resume"
            ) from error

    def finish(self, counts: Mapping[str, int] | None = None) -> ImageSet:
        """Write set.json and return the finished set.

        Args:
            counts: further counts, for example of rejected images.
        """
        if self._written < self.count:
            raise ImageSetError(
                f"{self.folder} has {self._written} of {self.count} images; it cannot be finished"
            )
        told = {name: self._plan[name] for name in ("format", "source", "settings", "seed")}
        told["counts"] = {
            **(counts or {}),
            "images": self.count,
            "labels": self.count if self._has_labels else 0,
        }
        told["digest"] = self._digest.hex()
        _write_json(self.folder / _SET, told)
        (self.folder / _PROGRESS).unlink(missing_ok=True)
        return read_image_set(self.folder)

    def _begin(self) -> None:
        make_folder(self.folder)
        present = [name for name in (_IMAGES, _LABELS) if (self.folder / name).exists()]
        if present:
            raise ImageSetError(
                f"{self.folder} holds {present[0]} but no {_PROGRESS}: not a set of ours; "
                "choose another folder"
            )
        needed = self.count * (math.prod(self._shape) + 8 * self._has_labels)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                f"{self.count} images need {needed / 1e6:,.1f} MB, but {self.folder} has "
                f"{free / 1e6:,.1f} MB free"
            )
        self._note(0, self._digest)

    def _go_on(self) -> None:
        progress = _read_json(self.folder / _PROGRESS, ("plan", "written", "digest"))
        plan = progress["plan"]
        if plan != self._plan:
            differing = sorted(
                name
                for name in {*plan, *self._plan}
                if plan.get(name, ...) != self._plan.get(name, ...)
            )
            raise ImageSetError(
                f"{self.folder} was begun with another {', '.join(differing)}; "
                "resume with the same, or choose another folder"
            )
        self._written = progress["written"]
        self._digest = bytes.fromhex(progress["digest"])
        for name in (_IMAGES, _LABELS) if self._written else ():
            path = self.folder / name
            if (name == _IMAGES or self._has_labels) and (
                not path.exists() or path.stat().st_size < self._end(name)
            ):
                raise ImageSetError(
                    f"{path} is shorter than {_PROGRESS} says; remove {self.folder} and start again"
                )

    def _header(self, name: str) -> bytes:
        if name == _LABELS:
            return _npy_header("<i8", (self.count,))
        return _npy_header("|u1", (self.count, *self._shape))

    def _end(self, name: str) -> int:
        item = 8 if name == _LABELS else math.prod(self._shape)
        return len(self._header(name)) + self._written * item

    def _extend(self, name: str, values: np.ndarray) -> None:
        # What a killed writer left behind the last complete shard is cut off.
        with open_own(self.folder / name, "ab") as file:
            file.truncate(self._end(name) if self._written else 0)
            if not self._written:
                file.write(self._header(name))
            file.write(values.data)
            file.flush()
            os.fsync(file.fileno())

    def _note(self, written: int, digest: bytes) -> None:
        progress = {"plan": self._plan, "written": written, "digest": digest.hex()}
        _write_json(self.folder / _PROGRESS, progress)
        self._written, self._digest = written, digest

    def _check(self, pixels: np.ndarray, targets: np.ndarray | None) -> None:
        if pixels.shape[1:] != self._shape:
            raise ImageSetError(
                f"a shard of {pixels.shape[1:]} images does not fit a set of {self._shape}"
            )
        if self._written + len(pixels) > self.count:
            raise ImageSetError(
                f"{len(pixels)} images more than the {self._written} written would pass the "
                f"{self.count} that {self.folder} holds"
            )
        if (targets is not None) != self._has_labels:
            begun = "with" if self._has_labels else "without"
            raise ImageSetError(f"{self.folder} was begun {begun} labels; this shard is not so")
        if targets is not None and len(targets) != len(pixels):
            raise ImageSetError(f"{len(pixels)} images came with {len(targets)} labels")


def is_image_set(folder: Path) -> bool:
    """Return whether `folder` holds a finished SET."""
    return (folder / _SET).is_file()


def is_begun(folder: Path) -> bool:
    """Return whether `folder` holds a SET, finished or not."""
    return is_image_set(folder) or (folder / _PROGRESS).is_file()


def read_image_set(folder: Path) -> ImageSet:
    """Return the finished SET in `folder`; only its description is read.

    Raises:
        ImageSetError: if it is missing, unfinished, truncated or does not match set.json.
    """
    if not is_image_set(folder):
        if (folder / _PROGRESS).is_file():
            progress = _read_json(folder / _PROGRESS, ("plan", "written"))
            raise ImageSetError(
                f"{folder} is unfinished: {progress['written']} of {progress['plan']['count']} "
                "images are written; resume what was drawing it"
            )
        raise ImageSetError(f"{folder} is not a SET: it has no {_SET}")
    told = _read_json(folder / _SET, ("format", "source", "settings", "seed", "counts", "digest"))
    if told["format"] != FORMAT:
        raise ImageSetError(
            f"{folder} has format {told['format']}, this version reads {FORMAT}; draw it again"
        )
    counts = told["counts"]
    if not isinstance(counts, dict) or not {"images", "labels"} <= counts.keys():
        raise ImageSetError(f"{folder / _SET} is damaged: its counts are {counts}")
    images = _map(folder / _IMAGES, np.uint8, counts["images"], dimensions=4)
    labels = (
        _map(folder / _LABELS, np.int64, counts["labels"], dimensions=1)
        if counts["labels"]
        else None
    )
    return ImageSet(
        folder=folder,
        images=images,
        labels=None if labels is None else np.array(labels),
        source=told["source"],
        settings=told["settings"],
        seed=told["seed"],
        counts=counts,
        digest=told["digest"],
    )


def _map(path: Path, dtype: type[np.generic], count: int, *, dimensions: int) -> np.ndarray:
    try:
        values: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImageSetError(f"{path} is missing, damaged or cut short ({error})") from error
    if values.dtype != dtype or values.ndim != dimensions or len(values) != count:
        raise ImageSetError(
            f"{path} holds {values.dtype} of shape {values.shape}, but {_SET} promises {count} "
            f"of {np.dtype(dtype)}; the set is damaged"
        )
    return values


def _first_digest(shape: tuple[int, ...], labels: bool) -> bytes:
    return hashlib.blake2b(f"{tuple(shape)} {labels}".encode(), digest_size=16).digest()


def _next_digest(digest: bytes, image: np.ndarray, label: np.int64 | None) -> bytes:
    chain = hashlib.blake2b(digest, digest_size=16)
    chain.update(np.ascontiguousarray(image).data)
    if label is not None:
        chain.update(int(label).to_bytes(8, "little", signed=True))
    return chain.digest()


def _npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def _read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ImageSetError(f"{path} is damaged: no valid JSON ({error})") from error
    missing = [key for key in keys if not isinstance(values, dict) or key not in values]
    if missing:
        raise ImageSetError(f"{path} is damaged: it lacks {', '.join(missing)}")
    return dict(values)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    try:
        with whole_file(path) as file:
            file.write((json.dumps(values, indent=2) + "\n").encode())
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror or error})") from error
