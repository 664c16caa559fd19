"""Operations of augmentation, and their parameters at full strength.

Geometric operations (`WARPS`) and linear colour operations (`RECOLOURINGS`) are matrices, so that
several combine into one; the others are in `augmentation`. Strengths are in [-1, 1].
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.sources import recolouring, warping
from doublure.sources.recolouring import Recolouring

Operation = Literal[
    "identity",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "perspective",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "invert",
    "autocontrast",
    "equalize",
    "posterize",
    "solarize",
    "sharpness",
    "blur",
    "noise",
    "cutout",
]
EVERY_OPERATION: tuple[Operation, ...] = get_args(Operation)
RANDAUGMENT: tuple[Operation, ...] = tuple(
    name
    for name in EVERY_OPERATION
    if name not in ("perspective", "hue", "invert", "blur", "noise", "cutout")
)

# The strength at magnitude 10. RandAugment's value where it has the operation (translation: 10 of
# 32 pixels); perspective, hue, blur, noise and cutout are ours.
_DEGREES, _SLOPE, _SHIFT, _TILT = 30.0, 0.3, 10 / 32, 0.4
ENHANCEMENT, _TURNS_OF_HUE = 0.9, 0.25
BITS_LOST, SIGMA_OF_SIDE, NOISE_STD, SIDE_OF_HOLE = 4, 1 / 32, 0.2, 0.5

# strength in [-1, 1], an independent number in [-1, 1], width over height
WARPS: Mapping[Operation, Callable[[Tensor, Tensor, float], Tensor]] = {
    "rotate": lambda s, other, aspect: warping.rotation(_DEGREES * s, aspect),
    "shear_x": lambda s, other, aspect: warping.shear_x(_SLOPE * s, aspect),
    "shear_y": lambda s, other, aspect: warping.shear_y(_SLOPE * s, aspect),
    "translate_x": lambda s, other, aspect: warping.translation(_SHIFT * s, 0 * s),
    "translate_y": lambda s, other, aspect: warping.translation(0 * s, _SHIFT * s),
    "perspective": lambda s, other, aspect: warping.tilt(_TILT * s, _TILT * s.abs() * other),
}
# strength in [-1, 1], number of channels
RECOLOURINGS: Mapping[Operation, Callable[[Tensor, int], Recolouring]] = {
    "brightness": lambda s, channels: recolouring.brightness(ENHANCEMENT * s, channels),
    "contrast": lambda s, channels: recolouring.contrast(ENHANCEMENT * s, channels),
    "saturation": lambda s, channels: recolouring.saturation(ENHANCEMENT * s, channels),
    "hue": lambda s, channels: recolouring.hue(_TURNS_OF_HUE * s, channels),
    "invert": lambda s, channels: recolouring.invert((s != 0).to(s), channels),
}


def warps_of(
    signed: Mapping[Operation, Float[Tensor, "batch rounds"]],
    other: Float[Tensor, "batch rounds"],
    aspect: float,
) -> Float[Tensor, "batch rounds 3 3"]:
    """Return the matrices of the geometric operations among those drawn; identity for others."""
    warps = torch.eye(3).repeat(*other.shape, 1, 1)
    for name, make in WARPS.items():
        if name in signed:
            rows = signed[name] != 0
            warps[rows] = make(signed[name][rows], other[rows], aspect)
    return warps


def recolourings_of(
    signed: Mapping[Operation, Float[Tensor, "batch rounds"]], each: tuple[int, int], channels: int
) -> Recolouring:
    """Return the linear colour operations among those drawn; no change for others."""
    combined = recolouring.brightness(torch.zeros(each), channels)
    for name, make in RECOLOURINGS.items():
        if name in signed:
            rows = signed[name] != 0
            for target, part in zip(combined, make(signed[name][rows], channels), strict=True):
                target[rows] = part
    return combined
