"""Augmentation: random changes of another source's images, for a whole batch on the device.

Order for each image: crop, shift, flip, rotation, then `num_operations` operations drawn with
replacement, all with one magnitude out of 10 (RandAugment). All geometric operations are combined
into one resampling, all linear colour operations into one matrix; the other operations follow in
the order of `Operation`, each at most once, even if it was drawn several times.

Published for distillation: RandAugment with n = 2 for real and n = 4 for synthetic images, with
flips and crops (Frank, Davis: arXiv:2411.12817, from a secondary source). Its magnitude, the crop's
area and the rotation are unknown; ours are 9 of 10, [0.25, 1] and 30 degrees.
Differs from the RandAugment paper (CARD): the order above; magnitude 0 changes nothing, where the
paper's posterize and solarize are strongest at 0; brightness, contrast, saturation and sharpness
change in both directions, by up to 0.9; empty corners are filled by reflection.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of, share
from doublure.core.protocols import Batch, Source, Stream, StreamContext
from doublure.core.seeding import child
from doublure.sources import recolouring, warping
from doublure.sources.operations import (
    BITS_LOST,
    ENHANCEMENT,
    EVERY_OPERATION,
    NOISE_STD,
    RANDAUGMENT,
    RECOLOURINGS,
    SIDE_OF_HOLE,
    SIGMA_OF_SIDE,
    Operation,
    recolourings_of,
    warps_of,
)
from doublure.sources.recolouring import Recolouring
from doublure.sources.warping import Padding

CARD = Card(
    paper="Cubuk, Zoph, Shlens, Le: RandAugment: Practical Automated Data Augmentation with a "
    "Reduced Search Space, arXiv:1909.13719",
    needs=("nothing",),
    reported={
        "CIFAR-10, Wide-ResNet-28-10, flips and crops": 96.1,
        "the same with RandAugment": 97.3,
    },
)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Settings of augmentation. Default: the strongest published one, for synthetic images.

    Args:
        crop_area: smallest and largest area of a random crop, as a share of the image; (1, 1): no
            crop.
        crop_ratio: smallest and largest aspect ratio (width over height) of the crop; its logarithm
            is uniform.
        shift: largest translation in whole pixels, in both directions of both axes (pad and crop).
        flip: probability of a horizontal flip.
        turn: largest rotation in degrees, in both directions, of every image.
        num_operations: number of operations per image, drawn with replacement.
        magnitude: strength of the operations, from 0 (no change) to 10.
        spread: 0 uses the magnitude itself; 1 draws it for each operation, uniform from 0 up to it.
        operations: operations to draw from.
        padding: fill outside of an image.
    """

    crop_area: tuple[float, float] = (0.25, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    shift: int = 0
    flip: float = 0.5
    turn: float = 30.0
    num_operations: int = 4
    magnitude: float = 9.0
    spread: float = 0.0
    operations: tuple[Operation, ...] = RANDAUGMENT
    padding: Padding = "reflection"

    def __post_init__(self) -> None:
        for name in ("crop_area", "crop_ratio"):
            bounds = getattr(self, name)
            if not 0 < bounds[0] <= bounds[1]:
                raise ValueError(f"{name} must be two increasing positive numbers, got {bounds}")
        if self.crop_area[1] > 1:
            raise ValueError(
                f"crop_area must not exceed 1, got {self.crop_area}; use shift to translate"
            )
        for name in ("shift", "turn", "num_operations"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.magnitude <= 10:
            raise ValueError(f"magnitude must be in [0, 10], got {self.magnitude}")
        share("flip", self.flip)
        share("spread", self.spread)
        one_of("padding", self.padding, get_args(Padding))
        for name in self.operations:
            one_of("operation", name, EVERY_OPERATION)
        if self.num_operations and not self.operations:
            raise ValueError("operations is empty; name at least one, or set num_operations to 0")


PUBLISHED = {
    # He et al., arXiv:1512.03385, sec. 4.2: 4 pixels of zeros on each side, a random crop, flips.
    "mild": Augmentation(
        crop_area=(1.0, 1.0), shift=4, turn=0.0, num_operations=0, padding="zeros"
    ),
    "standard": Augmentation(turn=0.0, num_operations=2),
    "extreme": Augmentation(),
}


def augment(
    images: Float[Tensor, "batch channels height width"],
    augmentation: Augmentation,
    rng: torch.Generator,
) -> Float[Tensor, "batch channels height width"]:
    """Return augmented images; the changes depend on the index in the batch, not on the image.

    Args:
        rng: a generator on the CPU, so that no draw waits for the device.
    """
    return run_operations(images, _draw_plan(augmentation, images.shape, rng), augmentation, rng)


def run_operations(
    images: Float[Tensor, "batch channels height width"],
    plan: "Plan",
    augmentation: Augmentation,
    rng: torch.Generator,
) -> Float[Tensor, "batch channels height width"]:
    """Return the images after a plan; `augmentation` has the padding and the maximum blur."""
    moved = (plan.warps != torch.eye(3)).flatten(1).any(1)
    if not moved.all():
        images = images.clone()  # the next operations are in place
    images = _change_(
        images, moved, lambda x, rows: warping.warp(x, plan.warps[rows], augmentation.padding)
    )
    images = _change_(
        images,
        plan.recoloured,
        lambda x, rows: recolouring.recolour(x, Recolouring(*(p[rows] for p in plan.recolourings))),
    )
    for name in EVERY_OPERATION:
        if (operation := _pixel_operation(name, plan, augmentation, rng)) is not None:
            images = _change_(images, plan.level[name] > 0, operation)
    return images


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """Source: another source's images, augmented.

    Args:
        source: whose images are changed.
        augmentation: what may happen to an image.
    """

    source: Source
    augmentation: Augmentation = field(default_factory=Augmentation)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> Stream:
        inner = self.source.open(context, teacher, child(rng, "source"))
        numbers = child(rng, "augment", context.split, context.rank)
        return AugmentedStream(inner, lambda x, rng: augment(x, self.augmentation, rng), numbers)


class AugmentedStream:
    """A stream with new random changes at each step; its state is the inner stream's."""

    def __init__(
        self,
        inner: Stream,
        augment: Callable[[Tensor, torch.Generator], Tensor],
        rng: torch.Generator,
    ) -> None:
        self._inner, self._augment, self._rng = inner, augment, rng

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch = self._inner.draw(step, student)
        if batch.mask is not None or (batch.labels is not None and batch.labels.dim() > 2):
            raise ValueError(
                "augmentation cannot transform masks or label maps; augment a source without them"
            )

        def change(view: Any) -> Tensor:
            # All views get the same changes, because each starts with the same child generator.
            return self._augment(_image(view), child(self._rng, step))

        # Teacher outputs from the source are dropped: they belong to the unchanged images.
        return batch.map_views(change, teacher=None)

    def state_dict(self) -> dict[str, Any]:
        return {"source": self._inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state["source"])


class Plan(NamedTuple):
    """The random draws for each image of a batch; all on the CPU.

    Args:
        warps: the combined geometric operations.
        recoloured: which images have any of `recolourings`, which are in the order of the draws.
        level: strength of each operation, as a share of its maximum; 0 if it was not drawn.
        sign: a random sign for each image, for sharpness.
        place: centre of a cutout hole, from 0 to 1 across and down.
    """

    warps: Float[Tensor, "batch 3 3"]
    recoloured: Bool[Tensor, " batch"]
    recolourings: Recolouring
    level: Mapping[Operation, Float[Tensor, " batch"]]
    sign: Float[Tensor, " batch"]
    place: Float[Tensor, "2 batch"]
    size: tuple[int, int]


def _draw_plan(augmentation: Augmentation, shape: torch.Size, rng: torch.Generator) -> Plan:
    num_images, channels, height, width = shape
    each = (num_images, augmentation.num_operations)
    warps = _draw_placement(augmentation, shape, rng)
    chosen = torch.randint(max(1, len(augmentation.operations)), each, generator=rng)
    sign = 2.0 * torch.randint(2, (num_images, 1 + each[1]), generator=rng) - 1
    lowered, other = torch.rand((2, *each), generator=rng)
    level = augmentation.magnitude / 10 * (1 - augmentation.spread * lowered)
    drawn = {name: level * (chosen == i) for i, name in enumerate(augmentation.operations)}
    signed = {name: value * sign[:, 1:] for name, value in drawn.items()}

    for warps_of_round in warps_of(signed, 2 * other - 1, width / height).unbind(1):
        warps = warps @ warps_of_round
    coloured = [drawn[name] > 0 for name in RECOLOURINGS if name in drawn]
    recoloured = torch.stack([torch.zeros(each, dtype=torch.bool), *coloured]).any(0).any(1)
    return Plan(
        warps=warps,
        recoloured=recoloured,
        recolourings=recolourings_of(signed, each, channels),
        level={name: value.amax(1) for name, value in drawn.items() if each[1]},
        sign=sign[:, 0],
        place=torch.rand((2, num_images), generator=rng),
        size=(height, width),
    )


def _draw_placement(
    augmentation: Augmentation, shape: torch.Size, rng: torch.Generator
) -> Float[Tensor, "batch 3 3"]:
    """Return the warps of crop, shift, flip and turn."""
    num_images, _, height, width = shape
    aspect = width / height
    area, ratio, x, y, flipped, turn = torch.rand((6, num_images), generator=rng)
    moves = torch.randint(
        -augmentation.shift, augmentation.shift + 1, (2, num_images), generator=rng
    )
    warps = torch.eye(3).repeat(num_images, 1, 1)
    smallest, largest = augmentation.crop_area
    if smallest < 1:
        narrowest, widest = (math.log(bound) for bound in augmentation.crop_ratio)
        area = smallest + (largest - smallest) * area
        ratio = (narrowest + (widest - narrowest) * ratio).exp()
        warps = warps @ warping.crop(area, ratio, 2 * x - 1, 2 * y - 1, aspect)
    if augmentation.shift:
        warps = warps @ warping.translation(moves[0] / width, moves[1] / height)
    if augmentation.flip:
        warps = warps @ warping.flip((flipped < augmentation.flip).float())
    if augmentation.turn:
        warps = warps @ warping.rotation(augmentation.turn * (2 * turn - 1), aspect)
    return warps


def _change_(
    images: Float[Tensor, "batch channels height width"],
    chosen: Bool[Tensor, " batch"],
    change: Callable[[Tensor, Int[Tensor, " rows"]], Tensor],
) -> Float[Tensor, "batch channels height width"]:
    """Return the images with the chosen ones changed, in place unless all are chosen."""
    rows = chosen.nonzero()[:, 0]
    if len(rows) == len(images):
        return change(images, rows)
    if len(rows) == 0:
        return images
    device_rows = rows.to(images.device, non_blocking=True)
    return images.index_copy_(0, device_rows, change(images[device_rows], rows))


def _pixel_operation(
    name: Operation, plan: Plan, augmentation: Augmentation, rng: torch.Generator
) -> Callable[[Tensor, Int[Tensor, " rows"]], Tensor] | None:
    """Return the function of an operation on some rows of the batch; None if it was not drawn."""
    level = plan.level.get(name)
    if level is None:
        return None
    side = min(plan.size)
    reach = math.ceil(2.5 * SIGMA_OF_SIDE * side * augmentation.magnitude / 10)

    def add_noise(x: Tensor, rows: Tensor) -> Tensor:
        noise = torch.randn(
            x.shape, generator=child(rng, "noise", device=x.device), device=x.device, dtype=x.dtype
        )
        strength = (NOISE_STD * level[rows]).to(x, non_blocking=True)
        return noise.mul_(strength.view(-1, 1, 1, 1)).add_(x).clamp_(0, 1)

    operations: dict[Operation, Callable[[Tensor, Tensor], Tensor]] = {
        "autocontrast": lambda x, rows: recolouring.autocontrast(x),
        "equalize": lambda x, rows: recolouring.equalize(x),
        "posterize": lambda x, rows: recolouring.posterize(
            x, 8 - (BITS_LOST * level[rows]).round().long()
        ),
        # Thresholds in Pillow go from 0 to 256, where 256 inverts nothing.
        "solarize": lambda x, rows: recolouring.solarize(x, (1 - level[rows]) * 256 / 255),
        "sharpness": lambda x, rows: recolouring.sharpen(
            x, ENHANCEMENT * plan.sign[rows] * level[rows]
        ),
        "blur": lambda x, rows: recolouring.blur(x, SIGMA_OF_SIDE * side * level[rows], reach),
        "noise": add_noise,
        "cutout": lambda x, rows: recolouring.cut_out(
            x, SIDE_OF_HOLE * level[rows], plan.place[0, rows], plan.place[1, rows]
        ),
    }
    return operations.get(name)


def _image(view: Any) -> Tensor:
    if not isinstance(view, Tensor) or view.dim() != 4:
        raise TypeError(
            f"augmentation needs image tensors with 4 dimensions, got {type(view).__name__}"
        )
    return view
