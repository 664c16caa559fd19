"""A batch of images, optimised as initial images plus a pyramid of corrections.

    x = clip(u + sum_k enlarge(p_k), 0, 1)
The p_k start at zero, have 1/8, 1/4, 1/2 and the full side of u, and are enlarged bilinearly. Adam
changes all their values at about the same rate, so that large shapes change as fast as single
pixels, and a few steps are enough. The loss is computed on x rolled and flipped at random; the
result is the last iterate.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from doublure.sources.image_optimisation import Images, roll

# Downsampling factors of the levels.
_FACTORS = (8, 4, 2, 1)
_BETAS = (0.5, 0.99)
_WARMUP = 2
# Final share of the learning rate, at the end of the cosine.
_LAST_RATE = 0.1
# The maximum roll is the side divided by this: 2 pixels of 32.
_SIDES_PER_PIXEL = 16


def level_sizes(size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return heights and widths of the levels, from the coarsest to the full size."""
    height, width = size
    return tuple((max(1, height // part), max(1, width // part)) for part in _FACTORS)


def enlargement(pixels: int, to: int) -> Float[Tensor, "to pixels"]:
    """Return the matrix that enlarges a row of pixels bilinearly.

    Two such products take a third of the time of `F.interpolate` on a CPU, and their gradients are
    deterministic also on a GPU.
    """
    rows = torch.eye(pixels)[None, None]
    return F.interpolate(rows, (to, pixels), mode="bilinear", align_corners=False)[0, 0]


def compose(
    start: Images, levels: Sequence[Tensor], enlargements: Sequence[tuple[Tensor, Tensor]]
) -> Images:
    """Return the initial images with all levels added, clipped to [0, 1].

    Args:
        enlargements: matrices for rows and columns of each level except the last, which has the
            full size.
    """
    for level, (rows, columns) in zip(levels, enlargements, strict=False):
        start = start + rows @ level @ columns.T
    return (start + levels[-1]).clamp(0, 1)


def rate_at(iteration: int, iterations: int) -> float:
    """Return the factor on the learning rate in an iteration, counted from 0.

    Two iterations of linear warm-up, and a cosine that falls to 0.1.
    """
    warm = min(1.0, (iteration + 1) / _WARMUP)
    cosine = 0.5 * (1 + math.cos(math.pi * iteration / iterations))
    return warm * (_LAST_RATE + (1 - _LAST_RATE) * cosine)


class PyramidDescent:
    """The optimisation of one batch.

    Args:
        rng: draws the rolls and flips.
    """

    def __init__(
        self, start: Images, iterations: int, learning_rate: float, rng: torch.Generator
    ) -> None:
        self._start, self._iterations, self._rate = start, iterations, learning_rate
        count, channels, height, width = start.shape
        sizes, device = level_sizes((height, width)), start.device
        self._levels = [
            torch.zeros((count, channels, *size), device=device, requires_grad=True)
            for size in sizes
        ]
        self._enlargements = [
            (enlargement(rows, height).to(device), enlargement(columns, width).to(device))
            for rows, columns in sizes[:-1]
        ]
        self._adam = torch.optim.Adam(self._levels, learning_rate, betas=_BETAS, fused=True)
        jitter = min(height, width) // _SIDES_PER_PIXEL
        shifts = torch.randint(-jitter, jitter + 1, (iterations, 2), generator=rng)
        self._shifts: list[tuple[int, int]] = [(row, column) for row, column in shifts.tolist()]
        # Grey images are often characters or scans, whose meaning a flip can change.
        flip = 0.5 if channels == 3 else 0.0
        self._mirrored = (torch.rand(iterations, generator=rng) < flip).tolist()

    def images(self) -> Images:
        """Return the current images."""
        return compose(self._start, self._levels, self._enlargements)

    def step(self, iteration: int, loss: Callable[[Images], Tensor]) -> None:
        """Take one step on the loss of the images, rolled and flipped at random."""
        self._adam.param_groups[0]["lr"] = self._rate * rate_at(iteration, self._iterations)
        with torch.enable_grad():
            mirrored = self._mirrored[iteration]
            view = roll(self.images(), self._shifts[iteration], mirrored=mirrored)
            gradients = torch.autograd.grad(loss(view), self._levels)
        for level, gradient in zip(self._levels, gradients, strict=True):
            level.grad = gradient
        self._adam.step()
