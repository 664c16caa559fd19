"""Figures loosely built like animals: a trunk on legs, two eyes above a nose, a beak, a long neck.

They are based on general knowledge of animal shapes, not on pictures. Their proportions are random
within wide bounds; most do not resemble a particular species.
"""

from doublure.shaders.colour import Colour, colour
from doublure.shaders.expressions import lift
from doublure.shaders.functions import Point, cover, larger, magnitude, mix, rod, smaller
from doublure.shaders.scenery import (
    figure_space,
    ground_behind,
    lamp_above,
    place_with_horizon,
    shaded,
    softness_of_edges,
    surface,
)
from doublure.shaders.sketch import Sketch

_COATS = ("earth", "earth", "earth", "earth", "skin", "grey")


def _on_land(sketch: Sketch, point: Point, share: float) -> Colour:
    """Return open country in `share` of the programs, any ground in the others."""
    if sketch.chance(share):
        return place_with_horizon(sketch, point, ("foliage", "foliage", "earth", "grey"))
    return ground_behind(sketch, point)


def creatures(sketch: Sketch, point: Point) -> Colour:
    """Return a trunk on legs with a neck, a head and a tail, before a place or a ground."""
    ground = _on_land(sketch, point, 0.7)
    here, size = figure_space(sketch, point, 0.75, 1.6, 0.12)
    here = here.shifted(0.0, -0.1)
    length, girth = sketch.uniform(0.28, 0.5), sketch.uniform(0.17, 0.3)
    chest = Point(length, sketch.uniform(-0.05, 0.15))
    rump = Point(-length, sketch.uniform(-0.05, 0.1))
    head = Point(chest.x + sketch.uniform(0.1, 0.4), chest.y + sketch.uniform(0.0, 0.55))
    muzzle = Point(head.x + sketch.uniform(0.08, 0.3), head.y - sketch.uniform(-0.02, 0.22))
    ear = Point(head.x - sketch.uniform(-0.05, 0.1), head.y + sketch.uniform(0.1, 0.4))
    tail = Point(rump.x - sketch.uniform(0.1, 0.4), rump.y - sketch.uniform(-0.2, 0.5))
    body = rod(here, rump, chest, girth)
    for start, end, thinnest, thickest in (
        (chest, head, 0.09, 0.18),
        (head, muzzle, 0.08, 0.16),
        (head, ear, 0.02, 0.06),
        (rump, tail, 0.02, 0.07),
    ):
        body = smaller(body, rod(here, start, end, sketch.uniform(thinnest, thickest)))
    reach, foot = sketch.uniform(0.45, 0.9), sketch.uniform(0.045, 0.1)
    softness = softness_of_edges(sketch)
    coat = surface(sketch, here, _COATS)
    # Backs are lit, bellies and legs are not.
    coat = coat.lit(larger(0.8 + sketch.uniform(0.2, 0.9) * here.y, 0.25))
    picture = ground
    for hip in (chest, chest, rump, rump)[: sketch.pick((2, 4, 4, 4))]:
        start = Point(hip.x + sketch.uniform(-0.1, 0.1), hip.y - 0.05)
        end = Point(hip.x + sketch.uniform(-0.25, 0.25), hip.y - reach)
        leg = rod(here, start, end, foot)
        picture = picture.mixed(coat.lit(0.75), cover(leg * size, softness))
    picture = picture.mixed(coat, cover(body * size, softness))
    eye = cover(here.shifted(-head.x, -(head.y + 0.03)).length() - 0.03, 0.04)
    return picture.lit(1.0 - 0.8 * eye)


def profiles(sketch: Sketch, point: Point) -> Colour:
    """Return a long neck and head from the side, with a mane, large in the picture."""
    ground = _on_land(sketch, point, 0.5)
    here, size = figure_space(sketch, point, 0.8, 1.5, 0.25)
    withers = Point(-sketch.uniform(0.5, 0.9), -sketch.uniform(0.5, 0.9))
    poll = Point(sketch.uniform(-0.25, 0.1), sketch.uniform(0.3, 0.6))
    lips = Point(poll.x + sketch.uniform(0.35, 0.7), poll.y - sketch.uniform(0.1, 0.65))
    chest = Point(withers.x + 0.35, withers.y - 0.2)
    thickness = sketch.uniform(0.16, 0.27)
    distance = smaller(
        smaller(rod(here, withers, poll, thickness), rod(here, chest, poll, thickness * 0.8)),
        smaller(rod(here, poll, lips, sketch.uniform(0.11, 0.19)), here.y - chest.y),
    )
    softness = softness_of_edges(sketch)
    mane_root = Point(withers.x - 0.12, withers.y + 0.2)
    mane = rod(here, mane_root, Point(poll.x - 0.1, poll.y + 0.08), sketch.uniform(0.04, 0.15))
    ear = Point(poll.x - sketch.uniform(-0.1, 0.12), poll.y + sketch.uniform(0.2, 0.45))
    coat = surface(sketch, here, _COATS)
    coat = coat.lit(larger(0.85 + sketch.uniform(0.2, 0.7) * here.y, 0.25))
    picture = ground.mixed(colour(sketch, "earth", 0.0, 0.7), cover(mane * size, softness))
    picture = picture.mixed(coat.lit(0.9), cover(rod(here, poll, ear, 0.05) * size, softness))
    picture = picture.mixed(coat, cover(distance * size, softness))
    blaze = cover(rod(here, poll, lips, sketch.uniform(0.01, 0.06)), 0.05)
    picture = picture.mixed(colour(sketch, "skin", 0.6, 1.0), blaze * sketch.uniform(-0.5, 1.0))
    eye = here.shifted(-mix(poll.x, lips.x, 0.3), -mix(poll.y, lips.y, 0.3) - 0.04).length()
    nostril = here.shifted(-lips.x - 0.04, -lips.y).length()
    dark = larger(cover(eye - 0.05, 0.05), cover(nostril - 0.035, 0.05))
    return picture.lit(1.0 - 0.85 * dark)


def faces(sketch: Sketch, point: Point) -> Colour:
    """Return a head with ears, two eyes and a nose, seen from the front."""
    ground = ground_behind(sketch, point)
    here, size = figure_space(sketch, point, 0.7, 1.3, 0.35)
    half = Point(magnitude(here.x), here.y)
    head = half.scaled(sketch.uniform(0.9, 1.4), sketch.uniform(0.9, 1.3)).length() - 0.7
    base = Point(sketch.uniform(0.25, 0.5), sketch.uniform(0.25, 0.45))
    tip = Point(base.x + sketch.uniform(-0.05, 0.3), base.y + sketch.uniform(-0.5, 0.55))
    ear = rod(half, base, tip, sketch.uniform(0.08, 0.2))
    coat = surface(sketch, half if sketch.chance(0.5) else here, _COATS)
    skin = shaded(coat, here.x, here.y, lamp_above(sketch), 0.7)
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
    softness = softness_of_edges(sketch)
    body = half.shifted(0.0, 1.1).scaled(sketch.uniform(0.7, 1.2), 1.0).length() - 0.75
    picture = ground.mixed(coat.lit(0.7), cover(body * size, softness))
    picture = picture.mixed(coat.lit(0.85), cover(ear * size, softness))
    return picture.mixed(skin, cover(head * size, softness))


def perched(sketch: Sketch, point: Point) -> Colour:
    """Return a plump body with a head, a beak and a tail, on a branch or on the ground."""
    ground = ground_behind(sketch, point)
    softness = softness_of_edges(sketch)
    slope = sketch.uniform(-0.4, 0.4)
    twig = magnitude(point.y + 0.55 + slope * point.x) - sketch.uniform(0.03, 0.12)
    picture = ground.mixed(colour(sketch, "earth", 0.05, 0.5), cover(twig, softness))
    here, size = figure_space(sketch, point, 0.5, 1.0, 0.5)
    body = here.rotated(sketch.uniform(0.2, 1.2)).scaled(1.0, sketch.uniform(1.2, 1.9))
    distance = body.length() - sketch.uniform(0.4, 0.6)
    head = Point(sketch.uniform(0.2, 0.5), sketch.uniform(0.35, 0.6))
    radius = sketch.uniform(0.17, 0.28)
    skull = here.shifted(-head.x, -head.y)
    distance = smaller(distance, skull.length() - radius)
    coat = surface(sketch, here, ("earth", "any", "grey", "foliage", "vivid"))
    coat = coat.mixed(colour(sketch, "any", 0.3, 1.0), cover(here.y + 0.3 * here.x + 0.1, 0.5))
    coat = coat.lit(0.85 + sketch.uniform(0.1, 0.6) * here.y)
    beak = rod(here, head, Point(head.x + radius + sketch.uniform(0.1, 0.5), head.y - 0.03), 0.05)
    tail = rod(
        here,
        Point(head.x * -0.6, head.y * -0.4 - 0.1),
        Point(sketch.uniform(-1.1, -0.6), sketch.uniform(-0.8, -0.1)),
        sketch.uniform(0.05, 0.13),
    )
    legs = rod(here, Point(head.x * 0.2, head.y * -0.5), Point(head.x * 0.3, head.y - 1.5), 0.03)
    for part, tint in ((legs, "earth"), (beak, "vivid"), (tail, "earth")):
        picture = picture.mixed(colour(sketch, tint, 0.1, 0.7), cover(part * size, softness))
    picture = picture.mixed(coat, cover(distance * size, softness))
    eye = cover(skull.shifted(-0.05, -0.04).length() - 0.045, 0.05)
    return picture.lit(1.0 - 0.9 * eye)


def crouchers(sketch: Sketch, point: Point) -> Colour:
    """Return a low broad body with folded legs and eyes on top, on the ground."""
    ground = surface(sketch, point, ("foliage", "earth", "grey", "water", "any"))
    here, size = figure_space(sketch, point, 0.6, 1.2, 0.5)
    softness = softness_of_edges(sketch)
    slant = sketch.uniform(0.1, 0.5)
    trunk = here.rotated(-slant).scaled(1.0, sketch.uniform(1.4, 2.2)).length() - 0.65
    head = Point(sketch.uniform(0.35, 0.6), sketch.uniform(0.1, 0.4))
    skull = here.shifted(-head.x, -head.y).scaled(1.0, 1.4).length() - sketch.uniform(0.22, 0.34)
    distance = smaller(trunk, skull)
    coat = surface(sketch, here, ("foliage", "foliage", "earth", "any"))
    coat = coat.mixed(colour(sketch, "any", 0.4, 1.0), cover(here.y + 0.25, 0.3))
    coat = coat.lit(larger(0.9 + sketch.uniform(0.2, 0.9) * here.y, 0.2))
    shadow = here.shifted(0.0, 0.45).scaled(1.0, 3.0).length() - 0.9
    picture = ground.lit(1.0 - 0.6 * cover(shadow, 0.4))
    picture = picture.mixed(coat, cover(distance * size, softness))
    knee = Point(-sketch.uniform(0.2, 0.5), sketch.uniform(-0.25, 0.1))
    hips = (Point(knee.x + 0.5, knee.y - 0.3), Point(knee.x - 0.2, lift(-0.3)))
    for hip, foot in zip(hips, (0.6, 0.2), strict=True):
        toe = Point(hip.x + foot * sketch.uniform(0.3, 1.0), -sketch.uniform(0.4, 0.6))
        limb = smaller(rod(here, knee, hip, sketch.uniform(0.07, 0.15)), rod(here, hip, toe, 0.06))
        picture = picture.mixed(coat.lit(0.8), cover(limb * size, softness))
    eye = here.shifted(-head.x - 0.05, -head.y - sketch.uniform(0.1, 0.22)).length()
    radius = sketch.uniform(0.06, 0.12)
    picture = picture.mixed(colour(sketch, "any", 0.3, 0.9), cover((eye - radius) * size, 0.05))
    return picture.lit(1.0 - 0.9 * cover((eye - radius * 0.5) * size, 0.04))
