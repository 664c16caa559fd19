"""Fields: one number at every place, mostly between 0 and 1, that a palette turns into colour.

Each field draws its own view, so that one program shows it at many places, angles and scales.
"""

from collections.abc import Callable

from doublure.shaders.expressions import Expr, Scalar, lift
from doublure.shaders.functions import (
    TURN,
    LatticeCell,
    Point,
    box,
    clamp01,
    cos,
    cover,
    exp,
    floor,
    fract,
    gradient_noise,
    larger,
    log,
    magnitude,
    mix,
    polygon,
    ramp,
    random_at,
    sin,
    smaller,
    sqrt,
    star,
    triangle,
    value_noise,
    voronoi,
    wave,
)
from doublure.shaders.sketch import Sketch

Field = Callable[[Sketch, Point], Expr]
Noise = Callable[[Point, Expr], Expr]

# From one octave to the next the lattice is doubled and turned, so that its axes do not add up.
_OCTAVE_COS, _OCTAVE_SIN = 1.6, 1.2


def octaves(noise: Noise, point: Point, salt: Expr, count: int, gain: Scalar = 0.5) -> Expr:
    """Return the sum of `count` octaves of noise, each twice as fine and `gain` times as strong."""
    total, strength = noise(point, salt), lift(gain)
    for octave in range(1, count):
        point = Point(
            _OCTAVE_COS * point.x - _OCTAVE_SIN * point.y,
            _OCTAVE_SIN * point.x + _OCTAVE_COS * point.y,
        )
        total = total + strength * noise(point, salt + float(octave))
        strength = strength * gain
    return total


def warped(sketch: Sketch, point: Point, strength: Expr) -> Point:
    """Return `point` displaced by smooth noise of unit scale."""
    salt = sketch.salt()
    return Point(
        point.x + strength * octaves(value_noise, point, salt, 2),
        point.y + strength * octaves(value_noise, point, salt + 7.0, 2),
    )


def _maybe_warped(sketch: Sketch, point: Point, share: float = 0.35) -> Point:
    return warped(sketch, point, sketch.uniform(0.1, 1.2)) if sketch.chance(share) else point


def plasma(sketch: Sketch, point: Point) -> Expr:
    """Return sines of several directions, added up."""
    here = sketch.view(point, 0.7, 2.5)
    count = sketch.pick((3, 4, 5))
    total = lift(0.0)
    for _ in range(count):
        turns = here.x * sketch.uniform(-0.9, 0.9) + here.y * sketch.uniform(-0.9, 0.9)
        total = total + sin((turns + sketch.phase()) * TURN)
    return 0.5 + total * (0.6 / count)


def value_fbm(sketch: Sketch, point: Point) -> Expr:
    """Return clouds: octaves of value noise, the plane displaced by other noise."""
    here = _maybe_warped(sketch, sketch.view(point, 0.7, 5.0), 0.6)
    gain = sketch.uniform(0.35, 0.65)
    return 0.5 + 0.8 * octaves(value_noise, here, sketch.salt(), sketch.pick((3, 4, 5)), gain)


def gradient_fbm(sketch: Sketch, point: Point) -> Expr:
    """Return octaves of gradient noise."""
    here = _maybe_warped(sketch, sketch.view(point, 1.0, 6.0))
    gain = sketch.uniform(0.35, 0.7)
    return 0.5 + octaves(gradient_noise, here, sketch.salt(), sketch.pick((2, 3, 4, 5)), gain)


def ridged(sketch: Sketch, point: Point) -> Expr:
    """Return crests: octaves of noise folded at zero."""

    def crest(place: Point, salt: Expr) -> Expr:
        return 0.5 - magnitude(2.0 * gradient_noise(place, salt))

    here = _maybe_warped(sketch, sketch.view(point, 0.8, 4.0))
    return 0.15 + 0.9 * octaves(crest, here, sketch.salt(), sketch.pick((2, 3, 4)))


def _cells(sketch: Sketch, point: Point) -> LatticeCell:
    here = _maybe_warped(sketch, sketch.view(point, 0.8, 4.5), 0.25)
    return voronoi(here, sketch.salt(), sketch.uniform(0.3, 0.95))


def cells(sketch: Sketch, point: Point) -> Expr:
    """Return the distance to the nearest of scattered points (Voronoi's F1)."""
    return _cells(sketch, point).first


def cracks(sketch: Sketch, point: Point) -> Expr:
    """Return how far the second nearest point is behind the nearest (F2 - F1)."""
    cell = _cells(sketch, point)
    return clamp01((cell.second - cell.first) * sketch.logarithmic(1.0, 6.0))


def crystals(sketch: Sketch, point: Point) -> Expr:
    """Return facets: every Voronoi cell has its own tone, with a shade towards its border."""
    cell = _cells(sketch, point)
    seam = ramp((cell.second - cell.first) * 12.0)
    return (cell.identity - sketch.uniform(0.0, 0.5) * cell.first) * (0.4 + 0.6 * seam) + 0.2


def folds(sketch: Sketch, point: Point) -> Expr:
    """Return a kaleidoscope: the plane mirrored, shifted, turned and scaled again and again."""
    here = sketch.view(point, 0.5, 1.5)
    shift = Point(sketch.uniform(0.2, 0.7), sketch.uniform(0.2, 0.7))
    turn = sketch.angle() + sketch.time * sketch.uniform(-0.2, 0.2)
    nearest = lift(10.0)
    for _ in range(sketch.pick((3, 4, 5, 6))):
        mirrored = Point(magnitude(here.x) - shift.x, magnitude(here.y) - shift.y)
        here = mirrored.rotated(turn).scaled(1.25)
        nearest = smaller(nearest, smaller(magnitude(here.x), magnitude(here.y)))
    sharpness = sketch.logarithmic(1.5, 8.0)
    return exp(-(nearest * sharpness)) if sketch.chance(0.5) else wave(here.length() * 0.6)


def tunnel(sketch: Sketch, point: Point) -> Expr:
    """Return a tube seen from inside: stripes over the angle and the reciprocal radius."""
    here = point.shifted(sketch.uniform(-0.6, 0.6), sketch.uniform(-0.6, 0.6))
    radius = here.length()
    spokes = sin(here.direction() * float(sketch.pick((1, 2, 3, 4, 6, 8))) + sketch.phase() * TURN)
    # Rings crowd towards the centre; those finer than a pixel are faded out.
    rings = sin((sketch.uniform(0.2, 1.2) / (radius + 0.12) + sketch.phase()) * TURN)
    mixed = mix(rings, spokes, sketch.uniform(0.0, 1.0)) if sketch.chance(0.5) else rings * spokes
    return 0.5 + 0.5 * mixed * ramp(radius * 4.0)


def spiral(sketch: Sketch, point: Point) -> Expr:
    """Return arms that wind outwards evenly in the logarithm of the radius."""
    here = point.shifted(sketch.uniform(-0.8, 0.8), sketch.uniform(-0.8, 0.8))
    arms = float(sketch.pick((1, 2, 3, 4, 5)))
    winding = log(here.squared_length() + 0.003) * sketch.uniform(-4.0, 4.0)
    turned = 0.5 + 0.5 * sin(here.direction() * arms + winding + sketch.phase() * TURN)
    return mix(turned, here.length() * 0.7, sketch.uniform(0.0, 0.6))


def julia(sketch: Sketch, point: Point) -> Expr:
    """Return how long z <- z^2 + c stays small, over 14 steps, smoothly counted."""
    here = sketch.view(point, 0.5, 1.3)
    angle = sketch.angle() + sketch.time * 0.1
    reach = sketch.uniform(0.55, 0.8)
    c = Point(reach * cos(angle), reach * sin(angle))
    total = lift(0.0)
    for _ in range(14):
        # Bounded, so that what has escaped stays finite and counts for nothing.
        here = Point(*(smaller(larger(each, -6.0), 6.0) for each in here))
        squares = Point(here.x * here.x, here.y * here.y)
        here = Point(squares.x - squares.y + c.x, 2.0 * here.x * here.y + c.y)
        total = total + exp(-(squares.x + squares.y))
    return total * sketch.uniform(0.08, 0.25)


def _tile(sketch: Sketch, point: Point) -> tuple[Point, Expr]:
    """Return the place within a square tile, in [-1/2, 1/2]^2, and a random number per tile."""
    here = _maybe_warped(sketch, sketch.view(point, 0.8, 4.0), 0.2)
    column, row = floor(here.x), floor(here.y)
    tone = random_at(column, row, sketch.salt())
    return Point(here.x - column - 0.5, here.y - row - 0.5), tone


def shapes(sketch: Sketch, point: Point) -> Expr:
    """Return rows of discs, rings, boxes, polygons or stars, each of its own size and tone."""
    inside, tone = _tile(sketch, point)
    size = 0.12 + 0.28 * tone
    kind = sketch.pick(("disc", "ring", "box", "polygon", "star"))
    if kind == "disc":
        distance = inside.length() - size
    elif kind == "ring":
        distance = magnitude(inside.length() - size) - 0.08
    elif kind == "box":
        distance = box(inside.rotated(sketch.angle()), size * 0.8, size * 0.6)
    elif kind == "polygon":
        distance = polygon(inside.rotated(sketch.angle()), size * 0.8, sketch.pick((3, 5, 6)))
    else:
        distance = star(inside.rotated(sketch.angle()), size * 0.8, sketch.pick((3, 4, 5, 6)), 0.4)
    ground = sketch.uniform(0.0, 0.4)
    return mix(ground, 0.35 + 0.65 * tone, cover(distance, sketch.logarithmic(0.05, 0.3)))


def stripes(sketch: Sketch, point: Point) -> Expr:
    """Return bands with soft edges, straight or bent by noise."""
    here = _maybe_warped(sketch, sketch.view(point, 0.8, 4.0), 0.4)
    band = sin((here.x + sketch.phase()) * TURN) - sketch.uniform(-0.6, 0.6)
    return clamp01(0.5 + band * sketch.logarithmic(0.7, 4.0))


def checkers(sketch: Sketch, point: Point) -> Expr:
    """Return a chessboard with soft edges, in perspective or not."""
    here = sketch.view(point, 0.7, 3.0)
    if sketch.chance(0.4):
        depth = 1.0 / (1.2 + sketch.uniform(0.3, 0.9) * point.y)
        here = Point(here.x * depth, here.y * depth)
    return clamp01(0.5 + sin(here.x * TURN) * sin(here.y * TURN) * sketch.logarithmic(1.0, 6.0))


def truchet(sketch: Sketch, point: Point) -> Expr:
    """Return quarter arcs in tiles turned at random, which join into meandering lines."""
    inside, tone = _tile(sketch, point)
    flip = clamp01((tone - 0.5) * 1e4) * 2.0 - 1.0
    turned = Point(inside.x * flip, inside.y)
    arcs = smaller(
        magnitude(turned.shifted(0.5, 0.5).length() - 0.5),
        magnitude(turned.shifted(-0.5, -0.5).length() - 0.5),
    )
    width = sketch.uniform(0.06, 0.2)
    return cover(arcs - width, sketch.logarithmic(0.06, 0.3)) * 0.9 + 0.1 * tone


def bricks(sketch: Sketch, point: Point) -> Expr:
    """Return a wall: rows shifted against each other, joints, a tone for each brick."""
    here = sketch.view(point, 1.0, 3.5).scaled(0.55, 1.0)
    row = floor(here.y)
    along = here.x + 0.5 * row
    column = floor(along)
    tone = random_at(column, row, sketch.salt())
    inside = Point(along - column - 0.5, here.y - row - 0.5)
    joint = sketch.uniform(0.03, 0.1)
    stone = cover(box(inside, 0.5 - joint * 0.55, 0.5 - joint), sketch.logarithmic(0.04, 0.15))
    rough = octaves(gradient_noise, here.scaled(3.0, 1.6), sketch.salt(), 2)
    return mix(sketch.uniform(0.0, 1.0), 0.3 + 0.5 * tone + 0.35 * rough, stone)


def gradients(sketch: Sketch, point: Point) -> Expr:
    """Return one slow change over the image: along a line, around a point, or both."""
    angle = sketch.angle()
    line = 0.5 + sketch.uniform(0.2, 0.6) * (point.x * cos(angle) + point.y * sin(angle))
    centre = sketch.place(0.9)
    ring = point.shifted(centre.x, centre.y).length() * sketch.uniform(0.4, 1.1)
    return mix(line, ring, sketch.uniform(0.0, 1.0)) if sketch.chance(0.5) else ring


def metaballs(sketch: Sketch, point: Point) -> Expr:
    """Return drops that flow together."""
    total = lift(0.0)
    for _ in range(sketch.pick((4, 5, 6, 7))):
        place = sketch.place(1.0)
        drift = sketch.uniform(0.0, 0.3)
        turn = sketch.phase() * TURN
        here = point.shifted(place.x + drift * cos(turn), place.y + drift * sin(turn))
        total = total + sketch.logarithmic(0.02, 0.12) / (here.squared_length() + 0.02)
    return ramp(total * sketch.uniform(0.3, 0.9) - 0.2)


def interference(sketch: Sketch, point: Point) -> Expr:
    """Return circular waves from a few sources, added up."""
    count = sketch.pick((2, 3, 4))
    frequency = sketch.logarithmic(1.0, 4.0)
    total = lift(0.0)
    for _ in range(count):
        place = sketch.place(1.6)
        distance = point.shifted(place.x, place.y).length()
        total = total + sin((distance * frequency + sketch.phase()) * TURN)
    return 0.5 + total * (0.6 / count)


def marble(sketch: Sketch, point: Point) -> Expr:
    """Return veins or grain: bands of a plane or of rings, shaken by noise."""
    here = sketch.view(point, 0.6, 2.5)
    shake = sketch.uniform(0.3, 1.5) * octaves(gradient_noise, here.scaled(1.5), sketch.salt(), 3)
    base = here.x if sketch.chance(0.5) else here.length() * 1.5
    turns = base * sketch.uniform(0.5, 2.0) + shake
    return wave(turns) if sketch.chance(0.5) else triangle(turns)


def weave(sketch: Sketch, point: Point) -> Expr:
    """Return cloth: threads that pass over and under each other."""
    here = _maybe_warped(sketch, sketch.view(point, 1.2, 4.0), 0.3)
    across, along = sin(here.x * (TURN / 2)), sin(here.y * (TURN / 2))
    over = clamp01(0.5 + across * along * 4.0)
    warp, weft = magnitude(sin(here.x * TURN)), magnitude(sin(here.y * TURN))
    return mix(0.25 + 0.75 * sqrt(warp + 0.01), 0.1 + 0.7 * sqrt(weft + 0.01), over)


def fur(sketch: Sketch, point: Point) -> Expr:
    """Return strands: noise much longer than wide, combed along a bending direction."""
    here = sketch.view(point, 0.6, 1.6)
    bend = octaves(value_noise, here, sketch.salt(), 1) * sketch.uniform(0.2, 1.2)
    combed = Point((here.x + bend) * sketch.uniform(5.0, 12.0), here.y * sketch.uniform(0.8, 2.5))
    strands = octaves(value_noise, combed, sketch.salt(), 3)
    return 0.5 + 0.6 * strands + 0.5 * value_noise(here.scaled(1.3), sketch.salt())


def spots(sketch: Sketch, point: Point) -> Expr:
    """Return irregular spots, as on a hide."""
    cell = _cells(sketch, point)
    edge = sketch.uniform(0.25, 0.5) + 0.3 * (cell.identity - 0.5)
    return clamp01(0.5 + (cell.first - edge) * sketch.logarithmic(3.0, 12.0))


def layers(sketch: Sketch, point: Point) -> Expr:
    """Return strata: noise cut into terraces of soft edges."""
    here = _maybe_warped(sketch, sketch.view(point, 0.6, 2.0), 0.4)
    height = octaves(value_noise, here, sketch.salt(), 3) * sketch.uniform(2.5, 6.0)
    step = fract(height)
    return 0.5 + (floor(height) + ramp((step - 0.5) * 4.0 + 0.5)) * 0.15


FIELDS: dict[str, Field] = {
    field.__name__: field
    for field in (
        plasma,
        value_fbm,
        gradient_fbm,
        ridged,
        cells,
        cracks,
        crystals,
        folds,
        tunnel,
        spiral,
        julia,
        shapes,
        stripes,
        checkers,
        truchet,
        bricks,
        gradients,
        metaballs,
        interference,
        marble,
        weave,
        fur,
        spots,
        layers,
    )
}
