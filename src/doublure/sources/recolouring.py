"""Colour operations on batches of images in [0, 1]: colour, tone, sharpness, noise and holes.

Operations that are linear in a pixel (brightness, contrast, saturation, hue, invert) are matrices:
    y = A x + b + d (w . mean(x)),
where w . mean(x) is the image's mean grey; a chain of those is composed into one A and b before it
is applied. The others map images to images. Each image has its own strength; 0 changes nothing.
Names and scales follow Pillow's ImageEnhance and ImageOps, which the published augmentations use.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


class Recolouring(NamedTuple):
    """y = A x + b + d (w . mean(x)) of each image; leading dimensions are free."""

    matrix: Float[Tensor, "*n channels channels"]
    offset: Float[Tensor, "*n channels"]
    grey: Float[Tensor, "*n"]


def grey_weights(channels: int) -> Float[Tensor, " channels"]:
    """Return w, the weights of the channels in grey: ITU-R 601 for RGB, else uniform."""
    return torch.tensor(_LUMA if channels == 3 else (1 / channels,) * channels)


def brightness(strength: Float[Tensor, "*n"], channels: int) -> Recolouring:
    """Return x -> (1 + s) x."""
    return _scale(1 + strength, torch.zeros_like(strength), channels)


def contrast(strength: Float[Tensor, "*n"], channels: int) -> Recolouring:
    """Return x -> g + (1 + s) (x - g), where g is the image's mean grey."""
    return _scale(1 + strength, -strength, channels)


def saturation(strength: Float[Tensor, "*n"], channels: int) -> Recolouring:
    """Return x -> g + (1 + s) (x - g), where g is the pixel's own grey."""
    plain = _scale(1 + strength, torch.zeros_like(strength), channels)
    to_grey = grey_weights(channels).to(strength).expand(channels, channels)
    return plain._replace(matrix=plain.matrix - strength[..., None, None] * to_grey)


def invert(strength: Float[Tensor, "*n"], channels: int) -> Recolouring:
    """Return x -> (1 - s) x + s (1 - x)."""
    plain = _scale(1 - 2 * strength, torch.zeros_like(strength), channels)
    return plain._replace(offset=strength[..., None].expand_as(plain.offset))


def hue(turns: Float[Tensor, "*n"], channels: int) -> Recolouring:
    """Return the rotation of RGB about the grey axis; other channel counts have no hue."""
    plain = _scale(torch.ones_like(turns), torch.zeros_like(turns), channels)
    if channels != 3:
        return plain
    angle = (2 * torch.pi * turns)[..., None, None]
    # Rodrigues' formula: `cross` is the cross product with the unit vector along grey.
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]).to(turns) / 3**0.5
    eye = torch.eye(3).to(turns)
    return plain._replace(matrix=eye + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross))


def recolour(
    images: Float[Tensor, "batch channels height width"], steps: Recolouring
) -> Float[Tensor, "batch channels height width"]:
    """Return the images after a chain of recolourings (dimension 1), clipped once at the end."""
    channels = images.shape[1]
    mean = images.mean((2, 3))[:, :, None]
    weights = grey_weights(channels).to(images, non_blocking=True)
    steps = Recolouring(*(part.to(images, non_blocking=True) for part in steps))
    matrix = torch.eye(channels).to(images, non_blocking=True).expand(len(images), -1, -1)
    offset = torch.zeros_like(mean)
    for i in range(steps.grey.shape[1]):
        grey = weights @ (matrix @ mean + offset)
        offset = steps.matrix[:, i] @ offset + steps.offset[:, i, :, None]
        offset = offset + (steps.grey[:, i, None] * grey)[:, None]
        matrix = steps.matrix[:, i] @ matrix
    pixels = torch.baddbmm(offset, matrix, images.flatten(2))
    return pixels.clamp_(0, 1).view_as(images)


def autocontrast(
    images: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Return the images with each channel stretched to [0, 1]; constant channels are unchanged."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = (high == low).to(images.dtype)
    return (images - low * (1 - flat)) / (high - low + flat)


def equalize(
    images: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Return the images with equalized 256-level histograms; constant channels are unchanged."""
    levels = (images * 255).round_().long().flatten(2).flatten(0, 1)
    ones = torch.ones((), dtype=torch.int32, device=images.device).expand_as(levels)
    counts = torch.zeros(len(levels), 256, dtype=torch.int32, device=images.device)
    # Integer sums are the same in any order, so this is deterministic on every device.
    below = counts.scatter_add_(1, levels, ones).cumsum(1)
    darkest = below.gather(1, levels.amin(1, keepdim=True))
    rank, above = below - darkest, levels.shape[1] - darkest
    table = rank.to(images.dtype) / above.clamp(min=1)
    even = table.gather(1, levels).view_as(images)
    constant = (above == 0).to(images.dtype).view(*images.shape[:2], 1, 1)
    return torch.lerp(even, images, constant)


def posterize(
    images: Float[Tensor, "batch channels height width"], bits: Int[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Return the images with only the leading bits of each 8-bit value."""
    step = (2 ** (8 - bits)).to(images, non_blocking=True).view(-1, 1, 1, 1)
    return (images * 255).round_().div_(step).floor_().mul_(step / 255)


def solarize(
    images: Float[Tensor, "batch channels height width"], threshold: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Return the images with all values from the threshold up inverted."""
    threshold = threshold.to(images, non_blocking=True).view(-1, 1, 1, 1)
    bright = (images >= threshold).to(images.dtype)
    return bright.mul_(1 - 2 * images).add_(images)


def sharpen(
    images: Float[Tensor, "batch channels height width"], strength: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Return x + s (x - smooth(x)), clipped; s = -1 is the smooth image."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    # Pillow's SMOOTH: a 3 x 3 kernel of ones with 5 in the middle.
    rows = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = box.add_(images, alpha=4).div_(13)
    weight = 1 + strength.to(images, non_blocking=True).view(-1, 1, 1, 1)
    return torch.lerp(smooth, images, weight).clamp_(0, 1)


def blur(
    images: Float[Tensor, "batch channels height width"],
    sigma: Float[Tensor, " batch"],
    reach: int,
) -> Float[Tensor, "batch channels height width"]:
    """Return the images after a Gaussian blur of `sigma` pixels, truncated at `reach` pixels."""
    height, width = images.shape[2:]
    away = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    spread = sigma.to(images, non_blocking=True).clamp(min=torch.finfo(images.dtype).tiny ** 0.5)
    weights = torch.softmax(-((away / spread[:, None]) ** 2) / 2, dim=1)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    rows = torch.zeros_like(padded[..., :width])
    for i, weight in enumerate(weights.T):
        rows.addcmul_(padded[..., i : i + width], weight.view(-1, 1, 1, 1))
    blurred = torch.zeros_like(images)
    for i, weight in enumerate(weights.T):
        blurred.addcmul_(rows[:, :, i : i + height], weight.view(-1, 1, 1, 1))
    return blurred


def cut_out(
    images: Float[Tensor, "batch channels height width"],
    side: Float[Tensor, " batch"],
    x: Float[Tensor, " batch"],
    y: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Return the images with a grey rectangle around (x, y), of this share of height and width."""

    def inside(n: int, centre: Tensor) -> Tensor:
        pixels = (torch.arange(n, device=images.device) + 0.5) / n
        middle, length = (part.to(images, non_blocking=True)[:, None] for part in (centre, side))
        return (pixels - middle).abs() < length / 2

    height, width = images.shape[2:]
    hole = inside(height, y)[:, None, :, None] & inside(width, x)[:, None, None]
    return torch.lerp(images, torch.full_like(images, 0.5), hole.to(images.dtype))


def _scale(factor: Tensor, grey: Tensor, channels: int) -> Recolouring:
    eye = torch.eye(channels).to(factor)
    return Recolouring(
        matrix=factor[..., None, None] * eye,
        offset=torch.zeros(*factor.shape, channels).to(factor),
        grey=grey,
    )
