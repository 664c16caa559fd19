"""Figures: scenes loosely built like animals, vehicles and faces.

They come from common knowledge of how such things are put together (a trunk on legs, a hull on
water, wings in the sky, two eyes above a nose) and from no picture of any. Everything about them
is random within wide bounds; most would not be recognised by a person.
"""

from understudy.sources.shader_colour import Colour, colour
from understudy.sources.shader_ir import Expr, Scalar
from understudy.sources.shader_math import (
    Point,
    box,
    clamp01,
    cover,
    larger,
    magnitude,
    segment,
    smaller,
    wave,
)
from understudy.sources.shader_scenes import (
    _ground,
    _lamp,
    _place,
    _shaded,
    _sky,
    _softness,
    _surface,
)
from understudy.sources.shader_sketch import Sketch

_COATS = ("earth", "earth", "earth", "earth", "skin", "grey")


def _limb(point: Point, start: Point, end: Point, thickness: Scalar) -> Expr:
    """Return the signed distance to a rod with round ends."""
    here = Point(point.x - start.x, point.y - start.y)
    return segment(here, Point(end.x - start.x, end.y - start.y)) - thickness


def _own_space(
    sketch: Sketch, point: Point, smallest: float, largest: float, tilt: float
) -> tuple[Point, Expr]:
    """Return `point` as a figure sees it, facing either way, and the figure's size."""
    centre, size = sketch.place(0.3), sketch.uniform(smallest, largest)
    here = point.shifted(centre.x, centre.y).rotated(sketch.uniform(-tilt, tilt))
    return here.scaled(sketch.side() / size, 1.0 / size), size


def creatures(sketch: Sketch, point: Point) -> Colour:
    """Return a trunk on legs with a neck, a head and a tail, before a place or a ground."""
    land = ("foliage", "foliage", "earth", "grey")
    ground = _place(sketch, point, land) if sketch.chance(0.7) else _ground(sketch, point)
    here, size = _own_space(sketch, point, 0.75, 1.6, 0.12)
    here = here.shifted(0.0, -0.1)
    length, girth = sketch.uniform(0.28, 0.5), sketch.uniform(0.17, 0.3)
    chest = Point(length, sketch.uniform(-0.05, 0.15))
    rump = Point(-length, sketch.uniform(-0.05, 0.1))
    head = Point(chest.x + sketch.uniform(0.1, 0.4), chest.y + sketch.uniform(0.0, 0.55))
    muzzle = Point(head.x + sketch.uniform(0.08, 0.3), head.y - sketch.uniform(-0.02, 0.22))
    ear = Point(head.x - sketch.uniform(-0.05, 0.1), head.y + sketch.uniform(0.1, 0.4))
    tail = Point(rump.x - sketch.uniform(0.1, 0.4), rump.y - sketch.uniform(-0.2, 0.5))
    body = _limb(here, rump, chest, girth)
    for start, end, thinnest, thickest in (
        (chest, head, 0.09, 0.18),
        (head, muzzle, 0.08, 0.16),
        (head, ear, 0.02, 0.06),
        (rump, tail, 0.02, 0.07),
    ):
        body = smaller(body, _limb(here, start, end, sketch.uniform(thinnest, thickest)))
    reach, foot = sketch.uniform(0.45, 0.9), sketch.uniform(0.045, 0.1)
    softness = _softness(sketch)
    coat = _surface(sketch, here, _COATS)
    # Backs are lit, bellies and legs are not.
    coat = coat.lit(larger(0.8 + sketch.uniform(0.2, 0.9) * here.y, 0.25))
    picture = ground
    for hip in (chest, chest, rump, rump)[: sketch.pick((2, 4, 4, 4))]:
        start = Point(hip.x + sketch.uniform(-0.1, 0.1), hip.y - 0.05)
        end = Point(hip.x + sketch.uniform(-0.25, 0.25), hip.y - reach)
        leg = _limb(here, start, end, foot)
        picture = picture.mixed(coat.lit(0.75), cover(leg * size, softness))
    picture = picture.mixed(coat, cover(body * size, softness))
    eye = cover(here.shifted(-head.x, -(head.y + 0.03)).length() - 0.03, 0.04)
    return picture.lit(1.0 - 0.8 * eye)


def faces(sketch: Sketch, point: Point) -> Colour:
    """Return a head with ears, two eyes and a nose, seen from the front."""
    ground = _ground(sketch, point)
    here, size = _own_space(sketch, point, 0.7, 1.3, 0.35)
    half = Point(magnitude(here.x), here.y)
    head = half.scaled(sketch.uniform(0.9, 1.4), sketch.uniform(0.9, 1.3)).length() - 0.7
    base = Point(sketch.uniform(0.25, 0.5), sketch.uniform(0.25, 0.45))
    tip = Point(base.x + sketch.uniform(-0.05, 0.3), base.y + sketch.uniform(-0.5, 0.55))
    ear = _limb(half, base, tip, sketch.uniform(0.08, 0.2))
    coat = _surface(sketch, half if sketch.chance(0.5) else here, _COATS)
    skin = _shaded(sketch, coat, here.x, here.y, _lamp(sketch), 0.7)
    patch = cover(half.shifted(0.0, 0.25).scaled(1.0, 1.2).length() - sketch.uniform(0.2, 0.4), 0.2)
    skin = skin.mixed(colour(sketch, "skin", 0.4, 1.0), patch * sketch.uniform(0.0, 1.0))
    eye = half.shifted(-sketch.uniform(0.18, 0.36), -sketch.uniform(0.0, 0.25))
    radius = sketch.uniform(0.06, 0.17)
    iris = colour(sketch, "any", 0.0, 0.6)
    skin = skin.mixed(iris, cover(eye.length() - radius, 0.05))
    skin = skin.lit(1.0 - 0.9 * cover(eye.length() - radius * 0.5, 0.05))
    nose = half.shifted(0.0, sketch.uniform(0.1, 0.35)).scaled(1.0, 1.5).length()
    skin = skin.lit(
        1.0 - sketch.uniform(0.4, 0.95) * cover(nose - sketch.uniform(0.06, 0.16), 0.06)
    )
    softness = _softness(sketch)
    body = half.shifted(0.0, 1.1).scaled(sketch.uniform(0.7, 1.2), 1.0).length() - 0.75
    picture = ground.mixed(coat.lit(0.7), cover(body * size, softness))
    picture = picture.mixed(coat.lit(0.85), cover(ear * size, softness))
    return picture.mixed(skin, cover(head * size, softness))


def vehicles(sketch: Sketch, point: Point) -> Colour:
    """Return a body on wheels with a cabin and windows, on a road."""
    ground = _place(sketch, point, ("grey", "metal", "earth"))
    here, size = _own_space(sketch, point, 0.65, 1.2, 0.12)
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
    softness = _softness(sketch)
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


def fronts(sketch: Sketch, point: Point) -> Colour:
    """Return a vehicle or a building from the front: boxes, panes and lamps, left as right."""
    ground = _place(sketch, point, ("grey", "metal", "earth"))
    here, size = _own_space(sketch, point, 0.65, 1.2, 0.1)
    half = Point(magnitude(here.x), here.y)
    width, height = sketch.uniform(0.45, 0.8), sketch.uniform(0.45, 0.85)
    softness = _softness(sketch)
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
    sky = _sky(sketch, point)
    here, size = _own_space(sketch, point, 0.7, 1.3, 0.08)
    level = sketch.uniform(-0.45, 0.1)
    softness = _softness(sketch)
    length, height = sketch.uniform(0.55, 1.0), sketch.uniform(0.08, 0.25)
    rake = sketch.uniform(0.2, 1.2)
    hull = larger(magnitude(here.x) - rake * here.y - length, magnitude(here.y) - height)
    paint = colour(sketch, sketch.pick(("grey", "any", "vivid", "metal")), 0.02, 0.95)
    picture = sky
    for _ in range(sketch.pick((1, 2, 3))):
        mast = sketch.uniform(-0.6, 0.6)
        foot, top = (
            Point(mast, height),
            Point(mast + sketch.uniform(-0.2, 0.2), sketch.uniform(0.4, 1.1)),
        )
        rod = _limb(here, foot, top, sketch.uniform(0.012, 0.04))
        picture = picture.mixed(colour(sketch, "grey", 0.05, 0.9), cover(rod * size, softness))
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
    water = _surface(
        sketch, Point(point.x * (0.8 + depth), depth * 4.0), ("water", "sky", "water", "grey")
    )
    shine = 0.6 + 0.4 * clamp01(1.0 - magnitude(here.x) * 0.8)
    return picture.mixed(water.lit(shine), cover(point.y - line, softness))


def flyers(sketch: Sketch, point: Point) -> Colour:
    """Return a trunk with wings and a tail in the air."""
    air = _sky(sketch, point) if sketch.chance(0.75) else _ground(sketch, point)
    here, size = _own_space(sketch, point, 0.6, 1.15, 0.6)
    nose, stern = (
        Point(sketch.uniform(0.5, 0.9), sketch.uniform(-0.1, 0.1)),
        Point(-sketch.uniform(0.5, 0.9), sketch.uniform(-0.05, 0.15)),
    )
    trunk = _limb(here, stern, nose, sketch.uniform(0.05, 0.2))
    softness = _softness(sketch)
    paint = colour(sketch, sketch.pick(("grey", "metal", "any", "earth")), 0.1, 1.0)
    paint = paint.lit(0.85 + sketch.uniform(0.0, 1.2) * here.y)
    picture = air
    for side in (1.0, -1.0):
        root = Point(sketch.uniform(-0.1, 0.3), sketch.uniform(-0.05, 0.05))
        tip = Point(root.x - sketch.uniform(-0.1, 0.7), side * sketch.uniform(0.05, 0.8))
        width = sketch.uniform(0.04, 0.13)
        wing = smaller(
            _limb(here, root, tip, width),
            _limb(here, Point(root.x - 0.2, root.y), tip, width * 0.8),
        )
        picture = picture.mixed(paint.lit(0.85 + 0.15 * side), cover(wing * size, softness))
    fin = Point(stern.x - sketch.uniform(0.0, 0.2), stern.y + sketch.uniform(0.1, 0.4))
    tail = _limb(here, stern, fin, sketch.uniform(0.03, 0.09))
    picture = picture.mixed(paint.lit(0.9), cover(tail * size, softness))
    picture = picture.mixed(paint, cover(trunk * size, softness))
    mark = cover(magnitude(here.y - sketch.uniform(-0.05, 0.05)) - 0.02, 0.03) * cover(trunk, 0.05)
    return picture.mixed(colour(sketch, "vivid"), mark * sketch.uniform(0.0, 1.0))


def perched(sketch: Sketch, point: Point) -> Colour:
    """Return a plump body with a head, a beak and a tail, on a branch or on the ground."""
    ground = _ground(sketch, point)
    softness = _softness(sketch)
    slope = sketch.uniform(-0.4, 0.4)
    twig = magnitude(point.y + 0.55 + slope * point.x) - sketch.uniform(0.03, 0.12)
    picture = ground.mixed(colour(sketch, "earth", 0.05, 0.5), cover(twig, softness))
    here, size = _own_space(sketch, point, 0.5, 1.0, 0.5)
    body = here.rotated(sketch.uniform(0.2, 1.2)).scaled(1.0, sketch.uniform(1.2, 1.9))
    distance = body.length() - sketch.uniform(0.4, 0.6)
    head = Point(sketch.uniform(0.2, 0.5), sketch.uniform(0.35, 0.6))
    radius = sketch.uniform(0.17, 0.28)
    skull = here.shifted(-head.x, -head.y)
    distance = smaller(distance, skull.length() - radius)
    coat = _surface(sketch, here, ("earth", "any", "grey", "foliage", "vivid"))
    coat = coat.mixed(colour(sketch, "any", 0.3, 1.0), cover(here.y + 0.3 * here.x + 0.1, 0.5))
    coat = coat.lit(0.85 + sketch.uniform(0.1, 0.6) * here.y)
    beak = _limb(here, head, Point(head.x + radius + sketch.uniform(0.1, 0.5), head.y - 0.03), 0.05)
    tail = _limb(
        here,
        Point(head.x * -0.6, head.y * -0.4 - 0.1),
        Point(sketch.uniform(-1.1, -0.6), sketch.uniform(-0.8, -0.1)),
        sketch.uniform(0.05, 0.13),
    )
    legs = _limb(here, Point(head.x * 0.2, head.y * -0.5), Point(head.x * 0.3, head.y - 1.5), 0.03)
    for part, tint in ((legs, "earth"), (beak, "vivid"), (tail, "earth")):
        picture = picture.mixed(colour(sketch, tint, 0.1, 0.7), cover(part * size, softness))
    picture = picture.mixed(coat, cover(distance * size, softness))
    eye = cover(skull.shifted(-0.05, -0.04).length() - 0.045, 0.05)
    return picture.lit(1.0 - 0.9 * eye)
