"""Figures loosely built like vehicles: bodies on wheels, hulls on water, wings in the air.

Like the animals, they are based on general knowledge, not on pictures, and their proportions are
random within wide bounds.
"""

from doublure.shaders.colour import Colour, colour
from doublure.shaders.functions import (
    Point,
    box,
    clamp01,
    cover,
    larger,
    magnitude,
    rod,
    smaller,
    wave,
)
from doublure.shaders.scenery import (
    figure_space,
    ground_behind,
    place_with_horizon,
    sky,
    softness_of_edges,
    surface,
)
from doublure.shaders.sketch import Sketch


def vehicles(sketch: Sketch, point: Point) -> Colour:
    """Return a body on wheels with a cabin and windows, on a road."""
    ground = place_with_horizon(sketch, point, ("grey", "metal", "earth"))
    here, size = figure_space(sketch, point, 0.65, 1.2, 0.12)
    length, height = sketch.uniform(0.6, 0.9), sketch.uniform(0.14, 0.3)
    paint = colour(sketch, sketch.pick(("vivid", "vivid", "any", "grey", "metal")), 0.1, 0.95)
    paint = paint.lit(0.8 + sketch.uniform(0.2, 1.0) * here.y)
    body = box(here, length - 0.06, height - 0.06) - 0.06
    roof, slant = sketch.uniform(0.2, 0.65), sketch.uniform(0.0, 0.7)
    middle = sketch.uniform(-0.3, 0.3)
    cabin = here.shifted(-middle, -height)
    width = length * sketch.uniform(0.35, 0.9)
    shell = larger(magnitude(cabin.x) + slant * cabin.y - width, magnitude(cabin.y) - roof)
    pane = larger(
        magnitude(cabin.x) + slant * cabin.y - width * 0.8,
        magnitude(cabin.y - 0.48 * roof) - 0.3 * roof,
    )
    post = magnitude(cabin.x - sketch.uniform(-0.1, 0.1)) - 0.04
    glass = colour(sketch, "sky", 0.05, 0.7)
    softness = softness_of_edges(sketch)
    radius = sketch.uniform(0.12, 0.22)
    axle = length * sketch.uniform(0.5, 0.75)
    wheel = Point(magnitude(here.x) - axle, here.y + height).length()
    shadow = here.shifted(0.0, height + radius).scaled(1.0 / length, 6.0).length() - 1.1
    picture = ground.lit(1.0 - 0.6 * cover(shadow, 0.4))
    picture = picture.mixed(paint.lit(0.95), cover(shell * size, softness))
    picture = picture.mixed(glass, cover(larger(pane, -post) * size, softness))
    picture = picture.mixed(paint, cover(body * size, softness))
    trim = cover(magnitude(here.y - sketch.uniform(-0.15, 0.1)) - 0.025, 0.04)
    picture = picture.lit(1.0 - sketch.uniform(0.0, 0.5) * trim * cover(body * size, softness))
    lamp_here = here.shifted(-length * 0.92, -height * 0.3).length() - 0.06
    picture = picture.mixed(colour(sketch, "vivid", 0.5, 1.0), cover(lamp_here * size, softness))
    tyre = colour(sketch, "grey", 0.0, 0.25)
    picture = picture.mixed(tyre, cover((wheel - radius) * size, softness))
    return picture.mixed(
        colour(sketch, "grey", 0.4, 0.9), cover((wheel - radius * 0.5) * size, softness)
    )


def wagons(sketch: Sketch, point: Point) -> Colour:
    """Return a tall box and a cab on many wheels, on a road."""
    ground = place_with_horizon(sketch, point, ("grey", "metal", "earth"))
    here, size = figure_space(sketch, point, 0.65, 1.15, 0.1)
    softness = softness_of_edges(sketch)
    level, radius = -sketch.uniform(0.3, 0.5), sketch.uniform(0.1, 0.18)
    split, height = sketch.uniform(0.2, 0.5), sketch.uniform(0.3, 0.75)
    load = box(here.shifted(0.5 - split / 2, -height - level), 0.42 + split / 2, height)
    cab_height = sketch.uniform(0.25, 0.5)
    cab = box(
        here.shifted(-(split + 0.95) / 2 - 0.02, -cab_height - level), (0.9 - split) / 2, cab_height
    )
    pane = box(
        here.shifted(-(split + 0.99) / 2, -1.4 * cab_height - level),
        (0.8 - split) / 2 * 0.8,
        cab_height * 0.35,
    )
    bed = box(here.shifted(0.0, -level + 0.02), 0.93, 0.05)
    side = colour(sketch, sketch.pick(("grey", "any", "vivid", "metal")), 0.2, 1.0)
    ribs = wave(here.x * sketch.uniform(1.0, 7.0))
    side = side.lit(0.9 + sketch.uniform(0.0, 0.3) * ribs + 0.2 * here.y)
    paint = colour(sketch, sketch.pick(("vivid", "vivid", "any", "grey")), 0.1, 0.9)
    shadow = here.shifted(0.0, radius * 2.0 - level).scaled(1.0, 6.0).length() - 1.0
    picture = ground.lit(1.0 - 0.6 * cover(shadow, 0.4))
    if sketch.chance(0.75):
        picture = picture.mixed(side, cover(load * size, softness))
    picture = picture.mixed(paint.lit(0.9 + 0.4 * here.y), cover(cab * size, softness))
    picture = picture.mixed(colour(sketch, "sky", 0.02, 0.6), cover(pane * size, softness))
    picture = picture.mixed(colour(sketch, "grey", 0.0, 0.4), cover(bed * size, softness))
    tyre = colour(sketch, "grey", 0.0, 0.2)
    for axle in (0.7, sketch.uniform(-0.5, -0.2), sketch.uniform(-0.8, -0.6)):
        wheel = here.shifted(-axle, radius - level).length()
        picture = picture.mixed(tyre, cover((wheel - radius) * size, softness))
        picture = picture.lit(1.0 + 1.5 * cover((wheel - radius * 0.4) * size, softness))
    return picture


def fronts(sketch: Sketch, point: Point) -> Colour:
    """Return a vehicle or a building from the front: boxes, panes and lamps, left as right."""
    ground = place_with_horizon(sketch, point, ("grey", "metal", "earth"))
    here, size = figure_space(sketch, point, 0.65, 1.2, 0.1)
    half = Point(magnitude(here.x), here.y)
    width, height = sketch.uniform(0.45, 0.8), sketch.uniform(0.45, 0.85)
    softness = softness_of_edges(sketch)
    paint = colour(sketch, sketch.pick(("vivid", "any", "grey")), 0.1, 0.95)
    paint = paint.lit(0.8 + sketch.uniform(0.1, 0.7) * here.y)
    foot = smaller(
        box(half.shifted(-width * 0.75, height), 0.14, 0.2),
        box(half.shifted(0.0, height), width, 0.05),
    )
    picture = ground.mixed(colour(sketch, "grey", 0.0, 0.3), cover(foot * size, softness))
    taper = sketch.uniform(0.0, 0.3)
    outline = larger(half.x + taper * half.y - width, magnitude(half.y) - height)
    picture = picture.mixed(paint, cover(outline * size, softness))
    pane = larger(
        half.x + taper * half.y - width * 0.82,
        magnitude(half.y - height * sketch.uniform(0.3, 0.6)) - height * sketch.uniform(0.15, 0.35),
    )
    glass = colour(sketch, "sky", 0.02, 0.6).lit(0.9 + 0.6 * here.y)
    picture = picture.mixed(glass, cover(pane * size, softness))
    grille = box(half.shifted(0.0, height * 0.45), width * sketch.uniform(0.3, 0.7), height * 0.18)
    bars = wave(here.y * sketch.uniform(3.0, 8.0))
    dark = colour(sketch, "grey", 0.0, 0.4).lit(0.6 + 0.8 * bars)
    picture = picture.mixed(dark, cover(grille * size, softness))
    lamp = half.shifted(-width * 0.75, height * sketch.uniform(0.25, 0.6)).length()
    light = colour(sketch, "any", 0.6, 1.0)
    return picture.mixed(light, cover((lamp - sketch.uniform(0.06, 0.14)) * size, softness))


def vessels(sketch: Sketch, point: Point) -> Colour:
    """Return a hull with superstructure and masts on water under a sky."""
    here, size = figure_space(sketch, point, 0.7, 1.3, 0.08)
    level = sketch.uniform(-0.45, 0.1)
    softness = softness_of_edges(sketch)
    length, height = sketch.uniform(0.55, 1.0), sketch.uniform(0.08, 0.25)
    rake = sketch.uniform(0.2, 1.2)
    hull = larger(magnitude(here.x) - rake * here.y - length, magnitude(here.y) - height)
    paint = colour(sketch, sketch.pick(("grey", "any", "vivid", "metal")), 0.02, 0.95)
    picture = sky(sketch, point)
    for _ in range(sketch.pick((1, 2, 3))):
        at = sketch.uniform(-0.6, 0.6)
        foot, top = (
            Point(at, height),
            Point(at + sketch.uniform(-0.2, 0.2), sketch.uniform(0.4, 1.1)),
        )
        mast = rod(here, foot, top, sketch.uniform(0.012, 0.04))
        picture = picture.mixed(colour(sketch, "grey", 0.05, 0.9), cover(mast * size, softness))
    if sketch.chance(0.3):
        sail = here.shifted(sketch.uniform(-0.3, 0.3), -height - 0.1)
        cloth = larger(magnitude(sail.x) * 2.0 + sail.y - sketch.uniform(0.5, 1.0), -sail.y)
        picture = picture.mixed(
            colour(sketch, "any", 0.5, 1.0), cover(cloth * size * 0.5, softness)
        )
    for _ in range(sketch.pick((1, 2, 3))):
        block = here.shifted(sketch.uniform(-0.5, 0.5), -height - 0.08)
        house = box(block, sketch.uniform(0.08, 0.4), sketch.uniform(0.06, 0.35))
        wall = colour(sketch, "grey", 0.4, 1.0).lit(
            0.8 + 0.3 * wave(here.x * sketch.uniform(1.0, 6.0))
        )
        picture = picture.mixed(wall, cover(house * size, softness))
    picture = picture.mixed(paint.lit(0.9 + here.y), cover(hull * size, softness))
    line = level - height * size * 0.9
    depth = 0.3 / (larger(line - point.y, 0.0) + 0.2)
    water = surface(
        sketch, Point(point.x * (0.8 + depth), depth * 4.0), ("water", "sky", "water", "grey")
    )
    shine = 0.6 + 0.4 * clamp01(1.0 - magnitude(here.x) * 0.8)
    return picture.mixed(water.lit(shine), cover(point.y - line, softness))


def flyers(sketch: Sketch, point: Point) -> Colour:
    """Return a trunk with wings and a tail in the air."""
    air = sky(sketch, point) if sketch.chance(0.75) else ground_behind(sketch, point)
    here, size = figure_space(sketch, point, 0.6, 1.15, 0.6)
    nose, stern = (
        Point(sketch.uniform(0.5, 0.9), sketch.uniform(-0.1, 0.1)),
        Point(-sketch.uniform(0.5, 0.9), sketch.uniform(-0.05, 0.15)),
    )
    trunk = rod(here, stern, nose, sketch.uniform(0.05, 0.2))
    softness = softness_of_edges(sketch)
    paint = colour(sketch, sketch.pick(("grey", "metal", "any", "earth")), 0.1, 1.0)
    paint = paint.lit(0.85 + sketch.uniform(0.0, 1.2) * here.y)
    picture = air
    for side in (1.0, -1.0):
        root = Point(sketch.uniform(-0.1, 0.3), sketch.uniform(-0.05, 0.05))
        tip = Point(root.x - sketch.uniform(-0.1, 0.7), side * sketch.uniform(0.05, 0.8))
        width = sketch.uniform(0.04, 0.13)
        wing = smaller(
            rod(here, root, tip, width),
            rod(here, Point(root.x - 0.2, root.y), tip, width * 0.8),
        )
        picture = picture.mixed(paint.lit(0.85 + 0.15 * side), cover(wing * size, softness))
    fin = Point(stern.x - sketch.uniform(0.0, 0.2), stern.y + sketch.uniform(0.1, 0.4))
    tail = rod(here, stern, fin, sketch.uniform(0.03, 0.09))
    picture = picture.mixed(paint.lit(0.9), cover(tail * size, softness))
    picture = picture.mixed(paint, cover(trunk * size, softness))
    mark = cover(magnitude(here.y - sketch.uniform(-0.05, 0.05)) - 0.02, 0.03) * cover(trunk, 0.05)
    return picture.mixed(colour(sketch, "vivid"), mark * sketch.uniform(0.0, 1.0))
