"""Scenes: pictures of opaque objects that occlude each other, with surfaces, light and shadow.

Natural images have occlusion edges, figures on grounds, an upright direction and light from above.
These pictures have them too, without depicting real objects.
"""

from doublure.shaders.colour import TINTS, Colour, any_palette, colour
from doublure.shaders.expressions import Expr
from doublure.shaders.fields import FIELDS, octaves
from doublure.shaders.functions import (
    Point,
    box,
    clamp01,
    cos,
    cover,
    floor,
    gradient_noise,
    larger,
    line_noise,
    magnitude,
    polygon,
    ramp,
    random_at,
    sin,
    smaller,
    star,
    value_noise,
)
from doublure.shaders.scenery import (
    ground_behind,
    lamp_above,
    shaded,
    sky,
    softness_of_edges,
    surface,
    texture,
)
from doublure.shaders.sketch import Sketch


def _silhouette(sketch: Sketch, point: Point) -> Expr:
    """Return the signed distance to some closed outline of about unit size."""
    kind = sketch.pick(("ellipse", "rough", "rough", "box", "polygon", "star", "union"))
    if kind == "ellipse":
        return point.length() - 1.0
    if kind == "rough":
        salt, scale = sketch.salt(), sketch.uniform(0.8, 2.0)
        rough = octaves(gradient_noise, point.scaled(scale), salt, 2)
        return point.length() - 0.9 + sketch.uniform(0.3, 1.3) * rough
    if kind == "box":
        rounding = sketch.uniform(0.0, 0.4)
        edge = Point(
            larger(magnitude(point.x) - 0.8 + rounding, 0.0),
            larger(magnitude(point.y) - 0.8 + rounding, 0.0),
        )
        return edge.length() - rounding
    if kind == "polygon":
        return polygon(point, 0.75, sketch.pick((3, 4, 5, 6)))
    if kind == "star":
        return star(point, 0.75, sketch.pick((3, 4, 5, 6, 7)), sketch.uniform(0.15, 0.6))
    distance = point.scaled(1.0, 1.4).length() - 0.8
    for _ in range(sketch.pick((2, 3, 4))):
        part = sketch.place(0.9)
        radius = sketch.uniform(0.2, 0.55)
        distance = smaller(distance, point.shifted(part.x, part.y).length() - radius)
    return distance


def _set_in(
    sketch: Sketch, ground: Colour, point: Point, lamp: Point, smallest: float, largest: float
) -> Colour:
    """Return `ground` with one thing before it: outline, surface, light and shadow."""
    centre = sketch.place(0.55)
    size = sketch.logarithmic(smallest, largest)
    turn, aspect = sketch.angle(), sketch.logarithmic(0.5, 1.2)
    moved = point.shifted(centre.x, centre.y)
    here = moved.rotated(turn).scaled(1.0 / size, aspect / size)
    distance = _silhouette(sketch, here) * size
    skin = surface(sketch, here) if sketch.chance(0.8) else texture(sketch, here)
    upright = moved.scaled(1.0 / size)
    skin = shaded(skin, upright.x, upright.y, lamp, sketch.pick((0.4, 0.8, 1.0)))
    softness = softness_of_edges(sketch)
    if sketch.chance(0.4):
        # A shadow needs no second outline: the edge, widened away from the lamp.
        away = distance + 0.25 * size * (upright.x * lamp.x + upright.y * lamp.y)
        ground = ground.lit(1.0 - 0.5 * cover(away, 0.3 * size))
    return ground.mixed(skin, cover(distance, softness))


def blobs(sketch: Sketch, point: Point) -> Colour:
    """Return one to three lit things of any outline before any ground."""
    picture, lamp = ground_behind(sketch, point), lamp_above(sketch)
    count = sketch.pick((1, 1, 1, 2, 3))
    for _ in range(count):
        picture = _set_in(sketch, picture, point, lamp, 0.3, 0.85 if count == 1 else 0.55)
    return picture


def leaves(sketch: Sketch, point: Point) -> Colour:
    """Return many opaque flat shapes on each other, larger ones below."""
    count = sketch.pick((10, 14, 18, 24))
    tints = tuple(sketch.pick(TINTS) for _ in range(3))
    picture = colour(sketch, tints[0]).mixed(colour(sketch, tints[1]), ramp(point.y * 0.5 + 0.5))
    softness = softness_of_edges(sketch)
    for index in range(count):
        # Radii follow a power law, as for objects at all distances.
        size = sketch.uniform(0.7, 1.3) * (1.1 * (1.0 - index / count) ** 1.5 + 0.1)
        centre = sketch.place(1.0)
        here = point.shifted(centre.x, centre.y).rotated(sketch.angle())
        kind = sketch.pick(("disc", "box", "triangle", "ellipse", "polygon"))
        if kind == "disc":
            distance = here.length() - size * 0.7
        elif kind == "box":
            distance = box(here, size * sketch.uniform(0.3, 0.8), size * sketch.uniform(0.2, 0.6))
        elif kind == "ellipse":
            distance = here.scaled(1.0, sketch.uniform(1.3, 3.0)).length() - size
        else:
            distance = polygon(here, size * 0.5, 3 if kind == "triangle" else 5)
        paint = colour(sketch, sketch.pick(tints))
        if sketch.chance(0.5):
            paint = paint.lit(1.0 + sketch.uniform(-0.6, 0.6) * here.x / size)
        picture = picture.mixed(paint, cover(distance, softness))
    return picture


def spheres(sketch: Sketch, point: Point) -> Colour:
    """Return rows of lit balls, or of buttons, pebbles and fruit, each of its own colour."""
    here = sketch.view(point, 0.8, 2.5)
    column, row = floor(here.x), floor(here.y)
    tone, other = (random_at(column, row, sketch.salt()) for _ in range(2))
    size = 0.3 + 0.18 * tone
    slack = 0.5 - size
    inside = Point(
        here.x - column - 0.5 - slack * (other * 2.0 - 1.0),
        here.y - row - 0.5 - slack * (tone * 2.0 - 1.0),
    )
    ball = any_palette(sketch)(other * 0.8 + 0.2 * tone)
    lamp = lamp_above(sketch)
    ball = shaded(ball, inside.x / size, inside.y / size, lamp)
    return ground_behind(sketch, point).mixed(ball, cover(inside.length() - size, 0.06))


def hills(sketch: Sketch, point: Point) -> Colour:
    """Return ranges behind each other, paler in the distance, under a sky."""
    picture = sky(sketch, point)
    haze = colour(sketch, "sky", 0.5, 0.9)
    count = sketch.pick((1, 2, 3))
    tints = sketch.pick((("foliage",), ("earth",), ("foliage", "earth"), ("grey", "water"), TINTS))
    softness = softness_of_edges(sketch)
    for index in range(count):
        near = (index + 1) / count
        along = point.x * sketch.logarithmic(0.7, 3.0) + sketch.uniform(0.0, 9.0)
        salt = sketch.salt()
        profile = line_noise(along, salt) + 0.5 * line_noise(along * 2.3, salt + 1.0)
        profile = profile + 0.2 * line_noise(along * 5.9, salt + 2.0)
        crest = sketch.uniform(0.5, 0.8) - 1.1 * near + sketch.uniform(0.2, 0.8) * profile
        slope = surface(sketch, point.scaled(1.0, 1.5), tints)
        slope = slope.mixed(haze, sketch.uniform(0.3, 0.7) * (1.0 - near))
        picture = picture.mixed(slope, cover(point.y - crest, softness))
    return picture


def relief(sketch: Sketch, point: Point) -> Colour:
    """Return a rough surface lit from the side: noise as height, its slope as light."""
    here = sketch.view(point, 0.8, 4.0)
    salt, gain, count = sketch.salt(), sketch.uniform(0.35, 0.6), sketch.pick((2, 3))
    noise = sketch.pick((value_noise, gradient_noise))
    lamp = sketch.angle()
    step = 0.12
    height = octaves(noise, here, salt, count, gain)
    lower = octaves(noise, here.shifted(step * cos(lamp), step * sin(lamp)), salt, count, gain)
    light = 0.75 + (height - lower) * sketch.uniform(2.0, 6.0)
    return any_palette(sketch)(0.5 + height).lit(larger(light, 0.1))


def masked(sketch: Sketch, point: Point) -> Colour:
    """Return two textures, each showing where a third field is high or low."""
    field = FIELDS[sketch.pick(("value_fbm", "plasma", "cracks", "stripes", "shapes", "metaballs"))]
    where = clamp01(0.5 + (field(sketch, point) - 0.5) * sketch.logarithmic(3.0, 15.0))
    return texture(sketch, point).mixed(texture(sketch, point), where)


def mirrored(sketch: Sketch, point: Point) -> Colour:
    """Return a figure that is the same left and right, with marks on it, before a ground."""
    ground, lamp = ground_behind(sketch, point), lamp_above(sketch)
    centre = sketch.place(0.25)
    size = sketch.uniform(0.55, 1.1)
    upright = point.shifted(centre.x, centre.y).rotated(sketch.uniform(-0.3, 0.3))
    here = Point(magnitude(upright.x), upright.y).scaled(1.0 / size)
    rough = octaves(gradient_noise, here.scaled(sketch.uniform(1.0, 2.2)), sketch.salt(), 3)
    outline = here.scaled(sketch.uniform(0.9, 1.6), 1.0).length() - 0.75
    distance = (outline + sketch.uniform(0.3, 1.2) * rough) * size
    skin = surface(sketch, here)
    skin = shaded(skin, upright.x / size, here.y, lamp)
    for _ in range(sketch.pick((1, 2, 3))):
        mark = here.shifted(-sketch.uniform(0.0, 0.5), sketch.uniform(-0.5, 0.5))
        spot = cover(mark.length() - sketch.uniform(0.05, 0.25), 0.1)
        skin = skin.mixed(colour(sketch, sketch.pick(TINTS), 0.0, 1.0), spot)
    return ground.mixed(skin, cover(distance, softness_of_edges(sketch)))
