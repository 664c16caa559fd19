"""AutoAugment: another source's images, each changed by a pair of operations from a policy.

The policy is the result of a published search. For each image one of its pairs is drawn, with equal
probabilities. Its two operations are applied in order, each with its own probability and its own
level out of 10:
    rotate, shear_x, shear_y, translate_x, translate_y    level / 10 of the maximum, random sign
    contrast, brightness, saturation, sharpness           factor 0.1 + 0.18 level; 5 changes nothing
    posterize                                             8 - 0.4 level bits remain
    solarize                                              invert values above 1 - level / 10
    invert, autocontrast, equalize                        no level
The maxima are 30 degrees, a slope of 0.3 and 10 of 32 pixels. At the end a square hole with side
`hole` is cut out. Shifts and flips, which come first in the paper, are in `sources.augmentation`.

Cubuk, Zoph, Mane, Vasudevan, Le: arXiv:1805.09501; the policy is the paper's table for CIFAR-10.
Differs from the paper: bilinear resampling; empty corners are filled by reflection; the hole is
grey and its size is relative to the image.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of, share
from doublure.core.protocols import Source, Stream, StreamContext
from doublure.core.seeding import child
from doublure.sources import recolouring
from doublure.sources.augmentation import Augmentation, AugmentedStream, Plan, run_operations
from doublure.sources.operations import (
    EVERY_OPERATION,
    RECOLOURINGS,
    WARPS,
    Operation,
    recolourings_of,
    warps_of,
)

CARD = Card(
    paper=(
        "Cubuk, Zoph, Mane, Vasudevan, Le: AutoAugment: Learning Augmentation Policies from Data, "
        "arXiv:1805.09501"
    ),
    needs=("nothing",),
    reported={
        "CIFAR-10 test error %, Wide-ResNet-28-10": 3.9,
        "the same with cutout": 3.1,
        "the same with AutoAugment": 2.6,
    },
)

PolicyName = Literal["cifar10"]
# operation, probability, level
Part = tuple[Operation, float, int]

CIFAR10: tuple[tuple[Part, Part], ...] = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("saturation", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("saturation", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("saturation", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("saturation", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("saturation", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)
POLICIES: dict[PolicyName, tuple[tuple[Part, Part], ...]] = {"cifar10": CIFAR10}

_LEVELS = 10
_ENHANCING = ("contrast", "brightness", "saturation", "sharpness")
_LEVELLESS = ("invert", "autocontrast", "equalize")
# `run_operations` uses only its padding, and its magnitude for blur, which no policy contains.
_CARRIED = Augmentation(magnitude=0.0)


def strength(operation: Operation, level: Float[Tensor, "*n"], sign: Float[Tensor, "*n"]) -> Tensor:
    """Return the strength in [-1, 1] of an operation at a level out of 10; 0 changes nothing.

    Args:
        sign: a random sign, 1 or -1.
    """
    if operation in _ENHANCING:
        return 2 * level / _LEVELS - 1
    if operation in _LEVELLESS:
        return torch.ones_like(level)
    return level / _LEVELS * (sign if operation in WARPS else 1.0)


def apply_policy(
    images: Float[Tensor, "batch channels height width"],
    policy: tuple[tuple[Part, Part], ...],
    hole: float,
    rng: torch.Generator,
) -> Float[Tensor, "batch channels height width"]:
    """Return augmented images; the changes depend on the index in the batch, not on the image.

    Args:
        hole: side of the square hole, as a share of the image's side; 0 for none.
        rng: a generator on the CPU, so that no draw waits for the device.
    """
    count = len(images)
    chosen = torch.randint(len(policy), (count,), generator=rng)
    coins, signs, places = torch.rand((3, 2, count), generator=rng)
    for part in range(2):
        names = [EVERY_OPERATION.index(pair[part][0]) for pair in policy]
        levels = torch.tensor([float(pair[part][2]) for pair in policy])[chosen]
        probability = torch.tensor([pair[part][1] for pair in policy])[chosen]
        applied = coins[part] < probability
        drawn = torch.tensor(names)[chosen]
        sign = torch.where(signs[part] < 0.5, -1.0, 1.0)
        plan = _plan(images.shape, drawn, levels, applied, sign)
        images = run_operations(images, plan, _CARRIED, child(rng, "part", part))
    if hole > 0:
        side = torch.full((count,), hole)
        images = recolouring.cut_out(images, side, places[0], places[1])
    return images


@dataclass(frozen=True, kw_only=True)
class AutoAugmented:
    """Source: another source's images, augmented by a published policy.

    Args:
        source: source of the images.
        policy: "cifar10", the 25 pairs of operations found on CIFAR-10.
        hole: side of the hole in every image, as a share of the image's side.
    """

    source: Source
    policy: PolicyName = "cifar10"
    hole: float = 0.5

    def __post_init__(self) -> None:
        one_of("policy", self.policy, get_args(PolicyName))
        share("hole", self.hole)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> Stream:
        inner = self.source.open(context, teacher, child(rng, "source"))
        policy, hole = POLICIES[self.policy], self.hole
        numbers = child(rng, "policy", context.split, context.rank)
        return AugmentedStream(inner, lambda x, rng: apply_policy(x, policy, hole, rng), numbers)


def _plan(shape: torch.Size, drawn: Tensor, levels: Tensor, applied: Tensor, sign: Tensor) -> Plan:
    """Return the plan of `sources.augmentation` for one operation per image."""
    count, channels, height, width = shape
    strengths: dict[Operation, Tensor] = {}
    for number in sorted(set(drawn.tolist())):
        name = EVERY_OPERATION[number]
        strengths[name] = strength(name, levels, sign) * (applied & (drawn == number))
    signed = {name: value[:, None] for name, value in strengths.items()}
    none = torch.zeros(count, dtype=torch.bool)
    coloured = [value != 0 for name, value in strengths.items() if name in RECOLOURINGS]
    towards = strengths.get("sharpness", torch.zeros(count)).sign()
    return Plan(
        warps=warps_of(signed, torch.zeros(count, 1), width / height)[:, 0],
        recoloured=torch.stack([none, *coloured]).any(0),
        recolourings=recolourings_of(signed, (count, 1), channels),
        level={name: value.abs() for name, value in strengths.items()},
        sign=towards,
        place=torch.full((2, count), 0.5),
        size=(height, width),
    )
