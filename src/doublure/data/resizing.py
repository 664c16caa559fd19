"""From an image of any size and colour to a network's input size and channels.

As in timm's evaluation: the image is resized to cover size / crop_pct (rounded down), and its
centre is cropped. An image that already has the contract's size is unchanged, even if crop_pct < 1:
a set drawn for a network is not enlarged and cropped again.
"""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from doublure.core.checks import one_of
from doublure.core.protocols import InputContract

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_MODES = {1: "L", 3: "RGB"}
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"})
# 32-bit integers and floats have no defined white.
_MODES_WITHOUT_RANGE = frozenset({"I", "F"})

GREY_TO_RGB = "grey images became RGB"
RGB_TO_GREY = "colour images became grey by luminance"


def check_fittable(contract: InputContract) -> None:
    """Raise unless images can be resized to the contract."""
    one_of("interpolation", contract.interpolation, _FILTERS)
    if not 0 < contract.crop_pct <= 1:
        raise ValueError(f"crop_pct must be in (0, 1], got {contract.crop_pct}")


def colour_change(image_channels: int, channels: int) -> str | None:
    """Return a description of the change of colours, or None.

    Raises:
        ValueError: if the missing channels are undefined.
    """
    if image_channels == channels:
        return None
    if (image_channels, channels) == (1, 3):
        return GREY_TO_RGB
    if (image_channels, channels) == (3, 1):
        return RGB_TO_GREY
    raise ValueError(
        f"images have {image_channels} channels, but the network takes {channels}; "
        "only 1 and 3 can be converted"
    )


def size_change(size: tuple[int, int], contract: InputContract) -> str | None:
    """Return a description of the change of an image of `size`, or None."""
    if size == contract.size:
        return None
    return f"images were scaled to {contract.size[0]}x{contract.size[1]}"


def covering_size(
    height: int, width: int, size: tuple[int, int], crop_pct: float
) -> tuple[int, int]:
    """Return the smallest size of an image that covers size / crop_pct."""
    target = [math.floor(side / crop_pct) for side in size]
    if target[0] * width <= target[1] * height:
        return max(target[0], int(target[1] * height / width)), target[1]
    return target[0], max(target[1], int(target[0] * width / height))


def fit_image(image: Image.Image, contract: InputContract) -> Image.Image:
    """Return the image resized and centre-cropped to the contract's size; colours are unchanged."""
    if (image.height, image.width) == contract.size:
        return image
    height, width = covering_size(image.height, image.width, contract.size, contract.crop_pct)
    scaled = image.resize((width, height), _FILTERS[contract.interpolation])
    top = round((height - contract.size[0]) / 2)
    left = round((width - contract.size[1]) / 2)
    return scaled.crop((left, top, left + contract.size[1], top + contract.size[0]))


def image_to_pixels(
    image: Image.Image, contract: InputContract
) -> UInt8[np.ndarray, "height width channels"]:
    """Return the pixels of an open image, in the contract's size and channels."""
    in_colour = _in_mode(image, _MODES[contract.channels])
    pixels = np.asarray(fit_image(in_colour, contract))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def fit_pixels(
    pixels: UInt8[np.ndarray, "height width image_channels"], contract: InputContract
) -> UInt8[np.ndarray, "new_height new_width channels"]:
    """Return pixels in the contract's size and channels, from any number of channels."""
    if colour_change(pixels.shape[2], contract.channels) is not None:
        mode = _MODES[pixels.shape[2]]
        return image_to_pixels(
            Image.fromarray(pixels.squeeze(2) if mode == "L" else pixels), contract
        )
    if pixels.shape[:2] == contract.size:
        return pixels
    planes = [fit_image(Image.fromarray(plane), contract) for plane in np.moveaxis(pixels, 2, 0)]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def is_grey(image: Image.Image) -> bool:
    """Return whether the image has one channel, apart from transparency."""
    return image.mode in _GREY_MODES


def check_range(image: Image.Image) -> None:
    """Raise unless the pixel value of white is defined."""
    if image.mode in _MODES_WITHOUT_RANGE:
        raise ValueError(
            f"pixels of Pillow's mode {image.mode} have no defined white; save as 8 bit"
        )


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    check_range(image)
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey at 255; the upper byte is the value of an 8-bit copy.
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
