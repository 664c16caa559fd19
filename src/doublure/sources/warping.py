"""Geometric operations: crops, shifts, flips, rotations, shears and tilts in one resampling.

A warp is a 3 x 3 matrix from output to input coordinates, which go from -1 to 1 over the image, x
to the right and y down, with pixels at the centres of their cells. Consecutive warps are
multiplied, the first on the left: output(p) = input(M_1 M_2 ... M_n p). So a chain resamples once,
and pixels outside of a crop are available to later warps.

`aspect` is width over height; with it, a rotation keeps circles.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Padding = Literal["reflection", "zeros", "border"]


def rotation(degrees: Float[Tensor, "*n"], aspect: float) -> Float[Tensor, "*n 3 3"]:
    """Return the warp that rotates an image anticlockwise about its centre."""
    angle = torch.deg2rad(degrees)
    cos, sin = angle.cos(), angle.sin()
    return _affine((cos, -sin / aspect), (sin * aspect, cos))


def shear_x(slope: Float[Tensor, "*n"], aspect: float) -> Float[Tensor, "*n 3 3"]:
    """Return the warp that shifts each row by `slope` times its height above the centre."""
    one, none = torch.ones_like(slope), torch.zeros_like(slope)
    return _affine((one, slope / aspect), (none, one))


def shear_y(slope: Float[Tensor, "*n"], aspect: float) -> Float[Tensor, "*n 3 3"]:
    """Return the warp that shifts each column up by `slope` times its distance from the centre."""
    one, none = torch.ones_like(slope), torch.zeros_like(slope)
    return _affine((one, none), (slope * aspect, one))


def translation(x: Float[Tensor, "*n"], y: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """Return the translation to the right and down, in shares of the sides."""
    one, none = torch.ones_like(x), torch.zeros_like(x)
    return _affine((one, none, -2 * x), (none, one, -2 * y))


def flip(flipped: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """Return the horizontal flip where `flipped` is 1, and the identity where it is 0."""
    one, none = torch.ones_like(flipped), torch.zeros_like(flipped)
    return _affine((1 - 2 * flipped, none), (none, one))


def tilt(x: Float[Tensor, "*n"], y: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """Return the perspective warp that enlarges the right side for x > 0, the lower for y > 0.

    |x| + |y| must be below 1, so that no pixel is behind the viewer.
    """
    one, none = torch.ones_like(x), torch.zeros_like(x)
    values = torch.stack([one, none, none, none, one, none, x, y, one], -1)
    return values.view(*x.shape, 3, 3)


def crop(
    area: Float[Tensor, "*n"],
    ratio: Float[Tensor, "*n"],
    x: Float[Tensor, "*n"],
    y: Float[Tensor, "*n"],
    aspect: float,
) -> Float[Tensor, "*n 3 3"]:
    """Return the warp that enlarges a part of the image to the whole.

    Args:
        area: share of the image's area.
        ratio: width over height of the part, in pixels; its sides are clipped to the image's.
        x: position of the part, from -1 (leftmost) to 1 (rightmost).
        y: the same, from top to bottom.
    """
    width = (area * ratio / aspect).sqrt().clamp(max=1)
    height = (area / ratio * aspect).sqrt().clamp(max=1)
    none = torch.zeros_like(width)
    return _affine((width, none, x * (1 - width)), (none, height, y * (1 - height)))


def warp(
    images: Float[Tensor, "batch channels height width"],
    matrices: Float[Tensor, "batch 3 3"],
    padding: Padding,
) -> Float[Tensor, "batch channels height width"]:
    """Return the warped images, with bilinear resampling."""
    height, width = images.shape[2:]
    rows = matrices.to(images, non_blocking=True)
    across, down = (
        (2 * torch.arange(n, device=images.device, dtype=images.dtype) + 1) / n - 1
        for n in (width, height)
    )
    # [batch, height, width, 3]: an outer sum, several times cheaper than a product of matrices.
    from_x = (rows[:, :, 0, None] * across).mT[:, None]
    from_y = (rows[:, :, 1, None] * down + rows[:, :, 2, None]).mT[:, :, None]
    if _is_affine(matrices):
        grid = from_x[..., :2] + from_y[..., :2]
    else:
        grid = from_x + from_y
        grid = grid[..., :2] / grid[..., 2:]
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def _is_affine(matrices: Float[Tensor, "batch 3 3"]) -> bool:
    # Cheap, and no synchronisation with the device: the matrices are on the CPU.
    last = torch.tensor([0.0, 0.0, 1.0], dtype=matrices.dtype, device=matrices.device)
    return bool((matrices[:, 2] == last).all())


def _affine(*rows: tuple[Tensor, ...]) -> Float[Tensor, "*n 3 3"]:
    none, one = torch.zeros_like(rows[0][0]), torch.ones_like(rows[0][0])
    values = [value for row in rows for value in (*row, none)[:3]]
    return torch.stack([*values, none, none, one], -1).view(*none.shape, 3, 3)
