"""Folders of image files: a folder per class, or no labels at all.

Images are decoded once into one uint8 array if that fits `cache_bytes`, else batch by batch, so
that memory does not grow with the set. In both cases every file is decoded once at the start (large
sets of JPEG at 1/8 of their size), so that damaged files are found before the run starts.
"""

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from doublure.core.protocols import InputContract
from doublure.data.arrays import (
    ArrayImages,
    Indices,
    as_positions,
    channels_first,
    in_threads,
)
from doublure.data.class_folders import Listing, list_images, listing_digest, map_folders
from doublure.data.resizing import (
    check_fittable,
    check_range,
    colour_change,
    image_to_pixels,
    is_grey,
    size_change,
)

# Exceptions of Pillow's decoders on truncated or damaged files, or files that are not images.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


class UnreadableImagesError(ValueError):
    """Some image files cannot be read; `reasons` has the reason for each path."""

    def __init__(self, folder: Path, reasons: dict[Path, str], count: int) -> None:
        listed = ", ".join(f"{path} ({why})" for path, why in reasons.items())
        super().__init__(
            f"{len(reasons)} of {count} images in {folder} cannot be read: {listed}; remove them, "
            f"or skip them with skip_bad (--skip-bad)"
        )
        self.reasons = reasons


@dataclass(frozen=True, kw_only=True, eq=False)
class FolderImages:
    """A dataset that decodes files on demand; satisfies `datasets.Dataset`."""

    root: Path
    paths: tuple[Path, ...]
    contract: InputContract
    labels: Int64[Tensor, " count"] | None
    names: tuple[str, ...] | None
    digest: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, indices: Indices) -> UInt8[Tensor, "batch channels height width"]:
        """Return the images at `indices`, in the contract's size and channels."""
        paths = [self.paths[position] for position in as_positions(indices)]
        pixels, survey = _decode(paths, self.contract)
        if survey.bad:
            raise UnreadableImagesError(self.root, survey.bad, len(paths))
        return channels_first(pixels)


def open_image_folder(
    folder: Path,
    contract: InputContract,
    *,
    labels: bool | None,
    skip_bad: bool,
    cache_bytes: int,
) -> ArrayImages | FolderImages:
    """Return the dataset in a folder of images.

    Args:
        labels: True requires class folders, False reads all images without labels, None reads
            labels if there are class folders.
        skip_bad: skip and count unreadable files instead of raising.
    """
    check_fittable(contract)
    colour_change(3, contract.channels)
    listing = list_images(folder, labels)
    targets, names, notes = _targets(listing, contract)
    image_bytes = contract.channels * contract.size[0] * contract.size[1]
    cached = len(listing.paths) * image_bytes <= cache_bytes
    if cached:
        pixels, survey = _decode(listing.paths, contract)
    else:
        survey = _look_through(listing.paths, contract)
    if survey.bad and not skip_bad:
        raise UnreadableImagesError(folder, survey.bad, len(listing.paths))
    keep = np.array([path not in survey.bad for path in listing.paths])
    if not keep.any():
        raise ValueError(f"none of the {len(keep)} images in {folder} can be read")
    paths = tuple(path for path in listing.paths if path not in survey.bad)
    dataset = FolderImages(
        root=folder,
        paths=paths,
        contract=contract,
        labels=None if targets is None else targets[torch.from_numpy(keep)],
        names=names,
        digest=listing_digest(folder, paths),
        notes=(*notes, *survey.notes()),
    )
    return _in_memory(dataset, pixels if keep.all() else pixels[keep]) if cached else dataset


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """Result of a pass over files: counts of changes, and reasons for unreadable files."""

    changes: Counter[str]
    bad: dict[Path, str]

    def notes(self) -> tuple[str, ...]:
        notes = [f"{count} {change}" for change, count in sorted(self.changes.items())]
        if self.bad:
            notes.append(f"{len(self.bad)} unreadable images were skipped")
        return tuple(notes)


def _targets(
    listing: Listing, contract: InputContract
) -> tuple[Tensor | None, tuple[str, ...] | None, tuple[str, ...]]:
    notes = (
        () if not listing.others else (f"{listing.others} files that are not images were skipped",)
    )
    if listing.folders is None or listing.labels is None:
        return None, contract.names, notes
    indices, how = map_folders(listing.folders, contract, listing.root, bare=listing.bare)
    targets = torch.tensor(indices)[torch.tensor(listing.labels)]
    return targets, contract.names or listing.folders, (*how, *notes)


def _in_memory(dataset: FolderImages, pixels: np.ndarray) -> ArrayImages:
    return ArrayImages(
        pixels=pixels,
        contract=dataset.contract,
        labels=dataset.labels,
        names=dataset.names,
        digest=dataset.digest,
        notes=dataset.notes,
    )


def _decode(paths: Sequence[Path], contract: InputContract) -> tuple[np.ndarray, _Survey]:
    pixels = np.empty((len(paths), *contract.size, contract.channels), dtype=np.uint8)

    def decode(position: int) -> list[str]:
        with Image.open(paths[position]) as image:
            pixels[position] = image_to_pixels(image, contract)
            return _changes(image, contract)

    return pixels, _visit(paths, decode)


def _look_through(paths: Sequence[Path], contract: InputContract) -> _Survey:
    def look(position: int) -> list[str]:
        with Image.open(paths[position]) as image:
            changes = _changes(image, contract)
            image.draft(None, (1, 1))
            image.load()
            return changes

    return _visit(paths, look)


def _visit(paths: Sequence[Path], read: Callable[[int], list[str]]) -> _Survey:
    changes: Counter[str] = Counter()
    bad: dict[Path, str] = {}

    def attempt(position: int) -> list[str] | str:
        try:
            return read(position)
        except _UNREADABLE as error:
            return str(error).splitlines()[0] if str(error) else type(error).__name__

    for path, result in zip(paths, in_threads(attempt, range(len(paths))), strict=True):
        if isinstance(result, str):
            bad[path] = result
        else:
            changes.update(result)
    return _Survey(changes=changes, bad=bad)


def _changes(image: Image.Image, contract: InputContract) -> list[str]:
    check_range(image)
    colour = colour_change(1 if is_grey(image) else 3, contract.channels)
    size = size_change((image.height, image.width), contract)
    return [change for change in (colour, size) if change is not None]
