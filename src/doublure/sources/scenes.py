"""Scenes: windows of images, and of their label maps where there are any, scaled and mirrored.

Of each image a window of (h / s) x (w / s) pixels is cut at a random place and scaled to h x w,
with log s uniform between the logarithms of `scale`, and s large enough that the window lies in
the image. Images are interpolated linearly, label maps by the nearest pixel, so that both stay on
top of each other. Which images a step shows is that of `sources.surrogate`: shuffled epochs, a
share of the images held out by a hash of their pixels.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from doublure.core.checks import share
from doublure.core.protocols import Batch, StreamContext, image_batch
from doublure.core.seeding import child
from doublure.data.scenes import IGNORED, SceneData, open_scenes, taken_apart
from doublure.sources.epochs import Epochs
from doublure.sources.surrogate import hold_out


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Where in its image each window of a batch lies, in pixels of the image.

    Args:
        top, left: of the corner.
        height, width: of the window.
        mirrored: left to right.
    """

    top: Float[Tensor, " batch"]
    left: Float[Tensor, " batch"]
    height: Float[Tensor, " batch"]
    width: Float[Tensor, " batch"]
    mirrored: Bool[Tensor, " batch"]


def draw_windows(
    count: int,
    image: tuple[int, int],
    window: tuple[int, int],
    scale: tuple[float, float],
    flip: float,
    rng: torch.Generator,
) -> Windows:
    """Return windows inside of images of one size.

    Args:
        image: height and width of the images.
        window: height and width of what is shown of them.
        flip: share of the windows that are mirrored.
    """
    draws = torch.rand(4, count, generator=rng)
    low, high = (math.log(bound) for bound in scale)
    factor = torch.exp(low + (high - low) * draws[0])
    # No window is larger than its image.
    factor = factor.clamp(min=max(window[0] / image[0], window[1] / image[1]))
    height, width = window[0] / factor, window[1] / factor
    # At whole pixels: a window that is not scaled is then a copy.
    top, left = (
        (draw * (side - length + 1).floor()).floor()
        for draw, side, length in ((draws[1], image[0], height), (draws[2], image[1], width))
    )
    return Windows(top=top, left=left, height=height, width=width, mirrored=draws[3] < flip)


def sampling_grid(
    windows: Windows, image: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "batch height width 2"]:
    """Return the places of the windows' pixels as `grid_sample` takes them, in [-1, 1]."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in size)
    across = torch.where(windows.mirrored[:, None], columns.flip(0), columns)
    y = windows.top[:, None] + windows.height[:, None] * rows
    x = windows.left[:, None] + windows.width[:, None] * across
    y, x = 2 * y / image[0] - 1, 2 * x / image[1] - 1
    shape = len(y), *size
    return torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), -1)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Source: windows of the images of a folder, with their label maps where asked.

    Args:
        data: a folder of scenes, or without labels any folder of images.
        labels: also hand on the class of every pixel.
        size: height and width of what is shown; None for the contract's.
        scale: smallest and largest factor by which images are scaled.
        flip: share of the windows that are mirrored.
        held_out: share of the distinct images that only the held-out split shows.
        skip_bad: leave unreadable files out and count them, instead of raising.
    """

    data: str
    labels: bool = False
    size: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    held_out: float = 0.1
    skip_bad: bool = False

    def __post_init__(self) -> None:
        share("flip", self.flip)
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must lie in [0, 1), got {self.held_out}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be two positive factors in order, got {self.scale}")

    @property
    def paths(self) -> tuple[str, ...]:
        return (str(taken_apart(self.data)[0]),)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "SceneStream":
        data = open_scenes(
            self.data, context.contract, split="train", labels=self.labels, skip_bad=self.skip_bad
        )
        places = torch.arange(len(data))
        if self.held_out > 0:
            train, held = hold_out(data.hashes(), self.held_out)
            places = train if context.split == "train" else held
        elif context.split == "held_out":
            raise ValueError(f"held_out is 0, so nothing of {self.data} is held out; raise it")
        return SceneStream(self, data, Epochs(places, child(rng, context.split)), context, rng)


class SceneStream:
    """Windows of scenes, epoch by epoch; `notes` are the data's own."""

    def __init__(
        self,
        settings: Scenes,
        data: SceneData,
        epochs: Epochs,
        context: StreamContext,
        rng: torch.Generator,
    ) -> None:
        self._settings, self._data, self._epochs = settings, data, epochs
        self._context, self._rng = context, rng
        self.notes = data.notes

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        context, settings = self._context, self._settings
        start = (step * context.world + context.rank) * context.batch_size
        index = self._epochs.at(start, start + context.batch_size)
        image = context.contract.size
        size = settings.size or image
        rng = child(self._rng, "windows", context.split, context.rank, step)
        windows = draw_windows(len(index), image, size, settings.scale, settings.flip, rng)
        grid = sampling_grid(windows, image, size).to(context.device)
        images = self._data.images(index).to(context.device).float().div_(255)
        shown = F.grid_sample(images, grid, align_corners=False, padding_mode="border").clamp_(0, 1)
        if not settings.labels:
            return image_batch(shown, index=index.to(context.device))
        labels = nearest_labels(self._data.labels(index).to(context.device), grid)
        return image_batch(
            shown,
            labels=labels.long(),
            mask=labels != IGNORED,
            index=index.to(context.device),
        )

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"a stream of scenes has no state, got {sorted(state)}")


def nearest_labels(
    labels: UInt8[Tensor, "batch height width"], grid: Float[Tensor, "batch new_height new_width 2"]
) -> UInt8[Tensor, "batch new_height new_width"]:
    """Return the label of the nearest pixel at each place of a grid."""
    wide = labels[:, None].float()  # which holds every value up to 255 exactly
    moved = F.grid_sample(wide, grid, mode="nearest", padding_mode="border", align_corners=False)
    return moved[:, 0].to(torch.uint8)
