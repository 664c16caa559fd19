"""The natural contract of labelled data, for a network that is trained on them.

It has the size and channels of the images, the number of classes of the labels, and mean and
standard deviation per channel, measured on a sample.
"""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from doublure.core.protocols import InputContract
from doublure.data.arrays import read_npz
from doublure.data.class_folders import Listing, find_split, list_images
from doublure.data.datasets import open_data
from doublure.data.digits import NAMES, digits
from doublure.data.image_set import is_begun, read_image_set

_SAMPLE = 4096
# Lower limit of the standard deviation, for images without contrast.
_SMALLEST_STD = 1e-3
_ABSENT = "there is no '{}'; data are builtin/digits, a folder of images, a SET or a .npz"


def natural_contract(spec: str | Path, *, skip_bad: bool = False) -> InputContract:
    """Return the contract of a network for these data.

    Args:
        skip_bad: skip unreadable image files instead of raising.

    Raises:
        ValueError: the data have no labels, have one class only, or cannot be read.
    """
    height, width, channels, names, classes = _describe(str(spec))
    if classes < 2:
        raise ValueError(f"{spec} has one class only; a classifier needs at least two")
    plain = InputContract(
        size=(height, width),
        channels=channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        classes=classes,
        names=names,
    )
    data = open_data(spec, plain, labels=True, skip_bad=skip_bad)
    places = torch.linspace(0, len(data) - 1, min(len(data), _SAMPLE)).long()
    images = data.images(places).double() / 255
    mean = images.mean((0, 2, 3))
    std = images.std((0, 2, 3)).clamp(min=_SMALLEST_STD)
    return dataclasses.replace(
        plain,
        mean=tuple(round(value, 4) for value in mean.tolist()),
        std=tuple(round(value, 4) for value in std.tolist()),
    )


def natural_shape(spec: str | Path) -> tuple[int, int, int]:
    """Return height, width and channels of the images themselves; no labels are needed.

    For a folder of image files, those of the first file.
    """
    path = Path(spec)
    if str(spec).startswith("builtin/"):
        return _shape(digits("train")[0])
    if path.is_file() and path.suffix.lower() == ".npz":
        return _shape(read_npz(path, labels=False)["x"])
    if path.is_dir() and is_begun(path):
        return _shape(read_image_set(path).images)
    if not path.is_dir():
        raise ValueError(_ABSENT.format(spec))
    return _shape_of_first(list_images(find_split(path, "train"), False))


def count_classes(spec: str | Path) -> tuple[tuple[str, ...] | None, int]:
    """Return the names of the data's classes, if known, and their number."""
    _, _, _, names, classes = _describe(str(spec))
    return names, classes


def _describe(spec: str) -> tuple[int, int, int, tuple[str, ...] | None, int]:
    if spec.startswith("builtin/"):
        pixels, _ = digits("train")
        return (*pixels.shape[1:], NAMES, len(NAMES))
    path = Path(spec)
    if path.is_file() and path.suffix.lower() == ".npz":
        arrays = read_npz(path, labels=True)
        return (*_shape(arrays["x"]), None, _count(arrays["y"], path))
    if path.is_dir() and is_begun(path):
        found = read_image_set(path)
        if found.labels is None:
            raise ValueError(f"{path} has no labels.npy, so it has no labels")
        return (*_shape(found.images), None, _count(found.labels, path))
    if not path.is_dir():
        raise ValueError(_ABSENT.format(spec))
    listing = list_images(find_split(path, "train"), True)
    assert listing.folders is not None
    return (*_shape_of_first(listing), listing.folders, len(listing.folders))


def _shape_of_first(listing: Listing) -> tuple[int, int, int]:
    """Return height, width and channels of the first image file that can be opened."""
    for path in listing.paths:
        with contextlib.suppress(OSError), Image.open(path) as image:
            return image.height, image.width, _channels(image)
    raise ValueError(f"{listing.root}: none of its {len(listing.paths)} images can be read")


def _channels(image: Image.Image) -> int:
    return 1 if image.mode in ("1", "L", "I", "I;16") else 3


def _shape(images: np.ndarray) -> tuple[int, int, int]:
    return images.shape[1], images.shape[2], images.shape[3] if images.ndim == 4 else 1


def _count(labels: np.ndarray, path: Path) -> int:
    if not len(labels):
        raise ValueError(f"{path} holds no labels")
    return int(labels.max()) + 1
