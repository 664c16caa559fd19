"""What labelled data look like before any network says what it wants of them.

For a network that is trained from nothing: size and channels of the images as they are, as many
classes as there are labels, and mean and standard deviation per channel, measured on a sample.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from understudy.data.class_folders import find_split, list_images
from understudy.data.datasets import open_data
from understudy.data.digits import NAMES, digits
from understudy.data.image_set import is_begun, read_image_set
from understudy.protocols import InputContract

_SAMPLE = 4096
# Images without contrast still have to be divided by something.
_SMALLEST_STD = 1e-3
_ABSENT = "there is no '{}'; data are builtin/digits, a folder of images, a SET or a .npz"


def natural_contract(spec: str | Path) -> InputContract:
    """Return the contract of a network made for these data alone.

    Raises:
        ValueError: the data have no labels, or cannot be read.
    """
    height, width, channels, names, classes = _describe(str(spec))
    plain = InputContract(
        size=(height, width),
        channels=channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        classes=classes,
        names=names,
    )
    data = open_data(spec, plain, labels=True)
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

    Of a folder of image files the first one speaks for all.
    """
    path = Path(spec)
    if str(spec).startswith("builtin/"):
        return _shape(digits("train")[0])
    if path.is_file() and path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return _shape(arrays["x"])
    if path.is_dir() and is_begun(path):
        return _shape(read_image_set(path).images)
    if not path.is_dir():
        raise ValueError(_ABSENT.format(spec))
    with Image.open(list_images(find_split(path, "train"), False).paths[0]) as image:
        return image.height, image.width, _channels(image)


def count_classes(spec: str | Path) -> tuple[tuple[str, ...] | None, int]:
    """Return the names of the data's classes, where they have any, and how many there are."""
    _, _, _, names, classes = _describe(str(spec))
    return names, classes


def _describe(spec: str) -> tuple[int, int, int, tuple[str, ...] | None, int]:
    if spec.startswith("builtin/"):
        pixels, _ = digits("train")
        return (*pixels.shape[1:], NAMES, len(NAMES))
    path = Path(spec)
    if path.is_file() and path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
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
    with Image.open(listing.paths[0]) as image:
        shape = (image.height, image.width, _channels(image))
    return (*shape, listing.folders, len(listing.folders))


def _channels(image: Image.Image) -> int:
    return 1 if image.mode in ("1", "L", "I", "I;16") else 3


def _shape(images: np.ndarray) -> tuple[int, int, int]:
    return images.shape[1], images.shape[2], images.shape[3] if images.ndim == 4 else 1


def _count(labels: np.ndarray, path: Path) -> int:
    if not len(labels):
        raise ValueError(f"{path} holds no labels")
    return int(labels.max()) + 1
