"""Parts of scenes besides their figures: surfaces, grounds, skies, light, soft edges."""

from doublure.shaders.colour import (
    TINTS,
    Colour,
    any_palette,
    colour,
    gradient_palette,
    lightness_palette,
)
from doublure.shaders.expressions import Expr
from doublure.shaders.fields import FIELDS, octaves
from doublure.shaders.functions import (
    TURN,
    Point,
    clamp01,
    cos,
    cover,
    larger,
    line_noise,
    ramp,
    sin,
    sqrt,
    value_noise,
)
from doublure.shaders.sketch import Sketch

# Fields for surfaces: those that look similar at all places.
_SURFACES = (
    "value_fbm",
    "gradient_fbm",
    "ridged",
    "cells",
    "stripes",
    "marble",
    "fur",
    "spots",
    "gradients",
    "layers",
)


def softness_of_edges(sketch: Sketch) -> Expr:
    """Return the width of edges: from sharp to out of focus."""
    return sketch.logarithmic(0.008, 0.09)


def texture(sketch: Sketch, point: Point) -> Colour:
    """Return any field in any palette."""
    field = FIELDS[sketch.pick(tuple(FIELDS))]
    return any_palette(sketch)(field(sketch, point))


def surface(sketch: Sketch, point: Point, tints: tuple[str, ...] = TINTS) -> Colour:
    """Return a material: a quiet field in shades of few colours."""
    value = FIELDS[sketch.pick(_SURFACES)](sketch, point)
    if sketch.chance(0.5):
        return lightness_palette(sketch, sketch.pick(tints))(value)
    chosen = tuple(sketch.pick(tints) for _ in range(sketch.pick((2, 3))))
    return gradient_palette(sketch, chosen)(value)


def ground_behind(sketch: Sketch, point: Point) -> Colour:
    """Return a background: plain, textured, or with a horizon."""
    kind = sketch.pick(("plain", "surface", "surface", "place", "place", "texture"))
    if kind == "plain":
        value = FIELDS["gradients"](sketch, point)
        return gradient_palette(sketch, (sketch.pick(TINTS), sketch.pick(TINTS)))(value)
    if kind == "surface":
        return surface(sketch, point)
    return place_with_horizon(sketch, point) if kind == "place" else texture(sketch, point)


def place_with_horizon(sketch: Sketch, point: Point, below: tuple[str, ...] = ()) -> Colour:
    """Return a floor and a wall behind it, with a horizon between them."""
    floor_tints = below or ("earth", "foliage", "grey", "water", "any")
    behind = _backdrop(sketch, point)
    horizon = sketch.uniform(-0.7, 0.5)
    # Texture on a floor is finer the nearer it is to the horizon.
    depth = 0.35 / (larger(horizon - point.y, 0.0) + 0.25)
    lying = surface(sketch, Point(point.x * (0.6 + depth), depth * 3.0), floor_tints)
    rough = sketch.uniform(0.0, 0.25) * line_noise(point.x * 3.0, sketch.salt())
    return behind.mixed(lying, cover(point.y - horizon - rough, softness_of_edges(sketch)))


def _backdrop(sketch: Sketch, point: Point) -> Colour:
    if sketch.chance(0.5):
        return sky(sketch, point)
    return surface(sketch, point, ("foliage", "earth", "grey", "any"))


def sky(sketch: Sketch, point: Point) -> Colour:
    """Return air: light at the bottom, darker above, with clouds or without."""
    low = colour(sketch, "sky", 0.6, 0.95)
    high = colour(sketch, sketch.pick(("sky", "sky", "grey", "any")), 0.25, 0.85)
    air = low.mixed(high, ramp(point.y * 0.5 + 0.5))
    if sketch.chance(0.4):
        return air
    flat = sketch.view(point, 0.5, 1.6, tilt=0.2).scaled(1.0, sketch.uniform(1.0, 3.0))
    mist = octaves(value_noise, flat, sketch.salt(), 3)
    cloud = clamp01(sketch.uniform(-0.3, 0.5) + mist * sketch.uniform(1.0, 3.0))
    return air.mixed(colour(sketch, "grey", 0.5, 1.0), cloud)


def shaded(bare: Colour, across: Expr, up: Expr, lamp: Point, roundness: float = 1.0) -> Colour:
    """Return a bulging surface under a lamp; (across, up) is the place on it, 1 at its rim."""
    squared = across * across + up * up
    facing = sqrt(larger(1.0 - squared, 0.0))
    light = across * lamp.x + up * lamp.y + 0.7 * facing
    return bare.lit(1.0 - 0.6 * roundness + 0.9 * roundness * larger(light, 0.0))


def lamp_above(sketch: Sketch) -> Point:
    """Return the direction of the light: from above, from either side."""
    angle = sketch.uniform(0.05, 0.45) * TURN
    return Point(0.7 * cos(angle), 0.7 * sin(angle))


def figure_space(
    sketch: Sketch, point: Point, smallest: float, largest: float, tilt: float
) -> tuple[Point, Expr]:
    """Return `point` as a figure sees it, facing either way, and the figure's size."""
    centre, size = sketch.place(0.3), sketch.uniform(smallest, largest)
    here = point.shifted(centre.x, centre.y).rotated(sketch.uniform(-tilt, tilt))
    return here.scaled(sketch.side() / size, 1.0 / size), size
