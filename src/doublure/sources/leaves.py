"""Dead leaves: opaque random shapes are added until they cover the image.

Each shape is a circle, square, rotated square, rectangle, triangle or quadrilateral, all equally
likely; its centre and colour are uniform and its corners are on a circle whose radius, relative to
the image's shorter side, has density proportional to r^-3 - 1 on [0.03, 1]. There are at most 5000
shapes; uncovered pixels are black, as in the paper.

Half-planes: a polygon with centre c and radius R whose neighbouring corners are at the angles a and
b contains the points p with (p - c) . (cos m, sin m) <= R cos h for each side, with
m = (a + b) / 2, h = (b - a) / 2.

Differs from the paper: painted from front to back, so that painting ends when all pixels are
covered; that is an exact sample of the distribution which the paper's order only approaches
(Kendall and Thonnes, Perfect simulation in stochastic geometry, 1999). Centre, radius and corners
are not rounded to pixels, and the 200-point table of radii is interpolated: without interpolation
one shape in five would have the same radius.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import StreamContext
from doublure.sources.procedural import ProceduralStream

CARD = Card(
    paper=(
        "Baradad, Wulff, Wang, Isola, Torralba: Learning to See by Looking at Noise, "
        "arXiv:2106.05963"
    ),
    needs=("logits",),
)

SHAPES = ("circle", "square", "turned square", "rectangle", "triangle", "quadrilateral")
SMALLEST_RADIUS = 0.03
_TABLE_POINTS = 200

# Number of (pixel, shape) pairs per image in one round, and the maximum number in memory.
_PAIRS_PER_ROUND = 8192
_FEWEST_SHAPES, _MOST_SHAPES = 16, 256
_PAIRS_IN_MEMORY = 2**22


def radius_cdf(radius: Float[Tensor, "*shapes"]) -> Float[Tensor, "*shapes"]:
    """Return the share of shapes up to this radius (relative to the image's side)."""

    def mass(r: Tensor) -> Tensor:
        return (SMALLEST_RADIUS**-2 - r**-2) / 2 - (r - SMALLEST_RADIUS)

    return mass(radius) / mass(torch.ones_like(radius))


def radius_at(share: Float[Tensor, "*shapes"]) -> Float[Tensor, "*shapes"]:
    """Return the quantile of the radius: this share of the shapes has a smaller radius."""
    # Uniform steps of log r: the density falls by 10^4, and its steep end needs fine steps.
    low = math.log(SMALLEST_RADIUS)
    radii = torch.linspace(low, 0.0, _TABLE_POINTS, dtype=torch.float64).exp()
    cdf, radii = (table.to(share) for table in (radius_cdf(radii), radii))
    above = torch.searchsorted(cdf, share.contiguous(), right=True).clamp(1, _TABLE_POINTS - 1)
    below = above - 1
    step = (share - cdf[below]) / (cdf[above] - cdf[below])
    return torch.lerp(radii[below], radii[above], step.clamp(0, 1))


def corner_gaps(
    kind: Int[Tensor, " shapes"], uniforms: Float[Tensor, "6 shapes"]
) -> tuple[Float[Tensor, " shapes"], Float[Tensor, "4 shapes"]]:
    """Return the angle of each shape's first corner, and the gaps to the following corners.

    The four gaps sum to 2 pi; the last gap of a triangle is 0. All gaps of a circle are 0.
    """
    turn = 2 * math.pi
    # The gaps between n uniform points on a circle are n exponential variables, scaled to 2 pi.
    gaps = -torch.log1p(-uniforms[1:5])
    gaps[3].mul_(kind != SHAPES.index("triangle"))
    gaps = gaps * (turn / gaps.sum(0))
    start = turn * uniforms[0]
    square, turned = kind == SHAPES.index("square"), kind == SHAPES.index("turned square")
    gaps = torch.where(square | turned, turn / 4, gaps)
    start = torch.where(square, turn / 8, start)
    slope = turn / 4 * uniforms[5]
    oblong = torch.stack([2 * slope, math.pi - 2 * slope]).repeat(2, 1)
    rectangle = kind == SHAPES.index("rectangle")
    gaps = torch.where(rectangle, oblong, gaps)
    start = torch.where(rectangle, -slope, start)
    return start, torch.where(kind == SHAPES.index("circle"), 0.0, gaps)


def half_planes(
    start: Float[Tensor, " shapes"], gaps: Float[Tensor, "4 shapes"]
) -> Float[Tensor, "3 4 shapes"]:
    """Return cos m, sin m and cos h of each side of a polygon with these corners."""
    to_middle = torch.ones(4, 4, dtype=gaps.dtype, device=gaps.device).tril()
    middle = start + (to_middle - torch.eye(4).to(gaps) / 2) @ gaps
    return torch.stack([middle.cos(), middle.sin(), (gaps / 2).cos()])


def dead_leaves(
    num_images: int, size: tuple[int, int], channels: int, most_shapes: int, rng: torch.Generator
) -> Float[Tensor, "batch channels height width"]:
    """Return dead-leaves images, painted on the generator's device."""
    num_pixels = size[0] * size[1]
    group = max(1, _PAIRS_IN_MEMORY // (num_pixels * _FEWEST_SHAPES))
    painted = [
        _Canvas(min(group, num_images - first), size, channels, rng).paint(most_shapes)
        for first in range(0, num_images, group)
    ]
    return torch.cat(painted).mT.contiguous().view(num_images, channels, *size)


@dataclass(frozen=True, kw_only=True)
class Leaves:
    """Source: dead leaves. Default: the paper's limit of the number of shapes.

    Args:
        most_shapes: maximum number of shapes; pixels that no shape covers are black.
    """

    most_shapes: int = 5000

    def __post_init__(self) -> None:
        positive("most_shapes", self.most_shapes)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> ProceduralStream:
        contract = context.contract

        def paint(num_images: int, rng: torch.Generator) -> Tensor:
            return dead_leaves(num_images, contract.size, contract.channels, self.most_shapes, rng)

        return ProceduralStream(paint, context, rng)


class _Shapes(NamedTuple):
    """Shapes of each image, from the topmost down."""

    x: Float[Tensor, "images shapes"]
    y: Float[Tensor, "images shapes"]
    radius: Float[Tensor, "images shapes"]
    sides: Float[Tensor, "3 4 images*shapes"]
    colours: Float[Tensor, "images*shapes channels"]


class _Canvas:
    """A group of images during painting.

    `bare` lists each image's unpainted pixels in ascending order, padded with the number of pixels,
    which means no pixel. A round works on the images whose list is longer than half of the current
    width, so that all lists of a round have about the same length.
    """

    def __init__(
        self, num_images: int, size: tuple[int, int], channels: int, rng: torch.Generator
    ) -> None:
        self.rng, self.device = rng, rng.device
        self.num_pixels = size[0] * size[1]
        self.extent = (size[1] / min(size), size[0] / min(size))
        ys, xs = ((torch.arange(n, device=self.device) + 0.5) / min(size) for n in size)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        features = torch.stack([torch.ones_like(x), x, y, x * x + y * y], -1).view(-1, 4)
        # The padding pixel is in no disc: its distance to any centre is very large.
        nowhere = torch.tensor([[0.0, 0.0, 0.0, 1e9]], device=self.device)
        self.features = torch.cat([features, nowhere])
        self.pixels = torch.zeros(num_images, self.num_pixels, channels, device=self.device)
        every = torch.arange(self.num_pixels, device=self.device, dtype=torch.int32)
        self.bare = every.repeat(num_images, 1)
        self.num_bare = torch.full((num_images,), self.num_pixels, device=self.device)

    def paint(self, most_shapes: int) -> Float[Tensor, "images pixels channels"]:
        """Return the images when they are covered, or the maximum number of shapes is reached."""
        remaining = torch.full_like(self.num_bare, most_shapes)
        width = self.num_pixels
        while width:
            num_shapes = max(_FEWEST_SHAPES, min(_PAIRS_PER_ROUND // width, _MOST_SHAPES))
            while True:
                images = ((self.num_bare > width // 2) & (remaining > 0)).nonzero()[:, 0]
                if len(images) == 0:
                    break
                num_new = min(num_shapes, int(remaining[images].min()))
                self._drop(images, width, num_new)
                remaining[images] -= num_new
            width //= 2
        return self.pixels

    def _drop(self, images: Int[Tensor, " images"], width: int, num_shapes: int) -> None:
        """Paint `num_shapes` more shapes below the painted ones."""
        shapes = self._draw(len(images), num_shapes)
        bare = self.bare[images, :width]
        pixel, shape = self._topmost(bare, shapes, num_shapes)
        image = images[pixel // width]
        self.pixels[image, bare.view(-1)[pixel].long()] = shapes.colours[shape]
        bare.view(-1)[pixel] = self.num_pixels
        self.bare[images, :width] = bare.sort(dim=1).values
        self.num_bare[images] = (bare < self.num_pixels).sum(1)

    def _topmost(
        self, bare: Int[Tensor, "images width"], shapes: _Shapes, num_shapes: int
    ) -> tuple[Int[Tensor, " painted"], Int[Tensor, " painted"]]:
        """Return the flat indices of listed pixels that get painted, and of their shapes."""
        x, y, radius = shapes.x, shapes.y, shapes.radius
        features = self.features[bare]
        # R^2 - |p - c|^2 is linear in (1, x, y, x^2 + y^2): one product for all pairs.
        disc = torch.stack([radius**2 - x**2 - y**2, 2 * x, 2 * y, -torch.ones_like(x)], 1)
        pair = (features @ disc >= 0).view(-1).nonzero()[:, 0]
        pixel = pair // num_shapes
        shape = pixel // bare.shape[1] * num_shapes + pair % num_shapes
        positions = features.view(-1, 4)[pixel]
        across = (positions[:, 1] - x.view(-1)[shape]) / radius.view(-1)[shape]
        down = (positions[:, 2] - y.view(-1)[shape]) / radius.view(-1)[shape]
        cos, sin, reach = shapes.sides.view(12, -1)[:, shape].view(3, 4, -1)
        inside = (cos * across + sin * down <= reach).all(0)
        pixel, shape = pixel[inside], shape[inside]
        # Pairs are sorted by pixel, then by shape: the first pair of a pixel is the topmost shape.
        first: Bool[Tensor, " pairs"] = torch.ones_like(pixel, dtype=torch.bool)
        first[1:] = pixel[1:] != pixel[:-1]
        return pixel[first], shape[first]

    def _draw(self, num_images: int, num_shapes: int) -> _Shapes:
        num_values, colours = 3 + 7, self.pixels.shape[2]
        drawn = torch.rand(
            (num_values + colours, num_images * num_shapes), generator=self.rng, device=self.device
        )
        kind = (drawn[3] * len(SHAPES)).long()
        x, y = (share * extent for share, extent in zip(drawn[:2], self.extent, strict=True))
        shape = (num_images, num_shapes)
        return _Shapes(
            x=x.view(shape),
            y=y.view(shape),
            radius=radius_at(drawn[2]).view(shape),
            sides=half_planes(*corner_gaps(kind, drawn[4:num_values])),
            colours=drawn[num_values:].T,
        )
