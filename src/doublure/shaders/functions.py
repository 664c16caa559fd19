"""Building blocks of shader programs: curves, points, distances and lattice noise.

Every function takes and returns expressions (`shaders.expressions`), so that one definition holds
in torch and in GLSL. Lengths are in units of half the image's shorter side; y points upwards.
"""

import math
from typing import NamedTuple

from doublure.shaders.expressions import Expr, Scalar, apply, lift

TURN = 2 * math.pi


def floor(value: Scalar) -> Expr:
    """Return the largest whole number not above `value`."""
    return apply("floor", value)


def fract(value: Expr) -> Expr:
    """Return `value` minus its floor, in [0, 1)."""
    return value - floor(value)


def sin(value: Scalar) -> Expr:
    """Return the sine of an angle in radians."""
    return apply("sin", value)


def cos(value: Scalar) -> Expr:
    """Return the cosine of an angle in radians."""
    return apply("cos", value)


def exp(value: Scalar) -> Expr:
    """Return e to the power of `value`."""
    return apply("exp", value)


def log(value: Scalar) -> Expr:
    """Return the natural logarithm of a positive value."""
    return apply("log", value)


def sqrt(value: Scalar) -> Expr:
    """Return the square root of a value that is not negative."""
    return apply("sqrt", value)


def magnitude(value: Scalar) -> Expr:
    """Return the absolute value."""
    return apply("abs", value)


def smaller(first: Scalar, second: Scalar) -> Expr:
    """Return the smaller of two values."""
    return apply("min", first, second)


def larger(first: Scalar, second: Scalar) -> Expr:
    """Return the larger of two values."""
    return apply("max", first, second)


def clamp01(value: Scalar) -> Expr:
    """Return the value in [0, 1] that is nearest to `value`."""
    return apply("clamp01", value)


def mix(first: Scalar, second: Scalar, weight: Scalar) -> Expr:
    """Return the line from `first` (weight 0) to `second` (weight 1)."""
    return lift(first) + (lift(second) - first) * weight


def ramp(value: Expr) -> Expr:
    """Return the cubic that rises smoothly from 0 at 0 to 1 at 1."""
    bounded = clamp01(value)
    return bounded * bounded * (3.0 - 2.0 * bounded)


def smoothstep(low: Scalar, high: Scalar, value: Expr) -> Expr:
    """Return the cubic that rises smoothly from 0 at `low` to 1 at `high`."""
    return ramp((value - low) / (lift(high) - low))


def wave(turns: Expr) -> Expr:
    """Return a sine over whole turns, between 0 and 1."""
    return 0.5 + 0.5 * sin(turns * TURN)


def triangle(value: Expr) -> Expr:
    """Return a triangle wave of period 1: 0 at whole numbers, 1 half-way between."""
    return 1.0 - magnitude(2.0 * fract(value) - 1.0)


def cover(distance: Expr, softness: Scalar) -> Expr:
    """Return 1 inside a shape (distance < 0), 0 outside, over an edge `softness` wide."""
    return clamp01(0.5 - distance / softness)


class Point(NamedTuple):
    """A place in the plane, or a vector."""

    x: Expr
    y: Expr

    def shifted(self, dx: Scalar, dy: Scalar) -> "Point":
        """Return the point moved by (dx, dy)."""
        return Point(self.x + dx, self.y + dy)

    def scaled(self, factor: Scalar, other: Scalar | None = None) -> "Point":
        """Return the point with both coordinates multiplied."""
        return Point(self.x * factor, self.y * (factor if other is None else other))

    def rotated(self, radians: Scalar) -> "Point":
        """Return the point turned about the origin."""
        c, s = cos(radians), sin(radians)
        return Point(self.x * c - self.y * s, self.x * s + self.y * c)

    def squared_length(self) -> Expr:
        """Return the squared distance from the origin."""
        return self.x * self.x + self.y * self.y

    def length(self) -> Expr:
        """Return the distance from the origin."""
        # The smallest term keeps the derivative finite at the origin.
        return sqrt(self.squared_length() + 1e-12)

    def direction(self) -> Expr:
        """Return the angle to the x axis in radians, in (-pi, pi]."""
        return _direction(self)


# Abramowitz and Stegun 4.4.47: the arc tangent over [0, 1] within 1e-5. A library's own differs
# from machine to machine, and torch's even between the middle and the end of a tensor.
_ARC_TANGENT = (0.9998660, -0.3302995, 0.1801410, -0.0851330, 0.0208351)


def _direction(point: Point) -> Expr:
    across, up = magnitude(point.x), magnitude(point.y)
    ratio = smaller(across, up) / larger(larger(across, up), 1e-20)
    square = ratio * ratio
    series = lift(_ARC_TANGENT[-1])
    for coefficient in reversed(_ARC_TANGENT[:-1]):
        series = series * square + coefficient
    angle = ratio * series
    # One octant is known; the others are its mirror images.
    angle = mix(angle, math.pi / 2 - angle, _is_positive(up - across))
    angle = mix(angle, math.pi - angle, _is_positive(-point.x))
    return mix(angle, -angle, _is_positive(-point.y))


def _is_positive(value: Expr) -> Expr:
    """Return 1 for what is above zero (by more than 1e-30), 0 for the rest."""
    return clamp01(value * 1e30)


def box(point: Point, half_width: Scalar, half_height: Scalar) -> Expr:
    """Return the signed distance to an upright box about the origin (a bound at its corners)."""
    return larger(magnitude(point.x) - half_width, magnitude(point.y) - half_height)


def segment(point: Point, end: Point) -> Expr:
    """Return the distance to the straight line from the origin to a uniform `end`."""
    along = clamp01((point.x * end.x + point.y * end.y) / (end.squared_length() + 1e-6))
    return Point(point.x - along * end.x, point.y - along * end.y).length()


def rod(point: Point, start: Point, end: Point, thickness: Scalar) -> Expr:
    """Return the signed distance to a rod with round ends."""
    here = Point(point.x - start.x, point.y - start.y)
    return segment(here, Point(end.x - start.x, end.y - start.y)) - thickness


def polygon(point: Point, radius: Scalar, corners: int) -> Expr:
    """Return the signed distance to the sides of a regular polygon about the origin."""
    distance: Expr | None = None
    for corner in range(corners):
        angle = TURN * corner / corners
        side = point.x * math.cos(angle) + point.y * math.sin(angle)
        distance = side if distance is None else larger(distance, side)
    assert distance is not None
    return distance - radius


def star(point: Point, radius: Scalar, corners: int, depth: Scalar) -> Expr:
    """Return how far outside a wavy star a point is; `depth` is the waves' share of the radius."""
    return point.length() - radius * (1.0 + depth * cos(point.direction() * corners))


# Weyl's odd multipliers spread neighbouring lattice points over all 32 bits; the two rounds that
# follow are the finalizer `lowbias32` (multiply, xorshift), whose bits each depend on all others.
_COLUMN, _ROW = 0x9E3779B1, 0x85EBCA77
_ROUNDS = (0x7FEB352D, 0x846CA68B)


def lattice(column: Expr, row: Expr, salt: Expr) -> Expr:
    """Return the 32-bit hash of a lattice point; whole numbers in, an integer out."""
    key = _spread(column, _COLUMN)
    key = apply("int_add", key, _spread(row, _ROW))
    return scrambled(apply("int_add", key, apply("to_int", salt)))


def scrambled(key: Expr) -> Expr:
    """Return `lowbias32` of an integer, up to its last shift, which the upper bits don't need."""
    key = apply("int_mul", apply("xor_shift_16", key), _integer(_ROUNDS[0]))
    return apply("int_mul", apply("xor_shift_15", key), _integer(_ROUNDS[1]))


def random_at(column: Expr, row: Expr, salt: Expr) -> Expr:
    """Return a random number in [0, 1) that belongs to one lattice point."""
    return apply("unit", lattice(column, row, salt)) + 0.5


def _spread(whole: Expr, multiplier: int) -> Expr:
    return apply("int_mul", apply("to_int", whole), _integer(multiplier))


def _integer(value: int) -> Expr:
    return Expr("int_literal", value=value)


def _corners(point: Point, salt: Expr) -> tuple[Point, list[list[Expr]]]:
    """Return the place within the lattice cell and the hashes of its corners, [row][column]."""
    left, bottom = floor(point.x), floor(point.y)
    inside = Point(point.x - left, point.y - bottom)
    hashes = [
        [lattice(column, row, salt) for column in (left, left + 1.0)]
        for row in (bottom, bottom + 1.0)
    ]
    return inside, hashes


def value_noise(point: Point, salt: Expr) -> Expr:
    """Return smooth noise in [-1/2, 1/2]: random values at whole coordinates, blended."""
    inside, hashes = _corners(point, salt)
    across, up = ramp(inside.x), ramp(inside.y)
    rows = [mix(apply("unit", a), apply("unit", b), across) for a, b in hashes]
    return mix(rows[0], rows[1], up)


def line_noise(place: Expr, salt: Expr) -> Expr:
    """Return smooth noise over a line, in [-1/2, 1/2]."""
    left = floor(place)
    ends = (
        scrambled(apply("int_add", _spread(column, _COLUMN), apply("to_int", salt)))
        for column in (left, left + 1.0)
    )
    first, second = (apply("unit", end) for end in ends)
    return mix(first, second, ramp(place - left))


def gradient_noise(point: Point, salt: Expr) -> Expr:
    """Return smooth noise of about [-1/2, 1/2], zero at whole coordinates: random slopes."""
    inside, hashes = _corners(point, salt)
    across, up = ramp(inside.x), ramp(inside.y)
    rows = []
    for dy, row in enumerate(hashes):
        slopes = []
        for dx, key in enumerate(row):
            whole = apply("xor_shift_16", key)
            slope = Point(apply("unit_high", whole), apply("unit_low", whole))
            slopes.append(slope.x * (inside.x - dx) + slope.y * (inside.y - dy))
        rows.append(mix(slopes[0], slopes[1], across))
    # The slopes' components lie in [-1/2, 1/2); 1.6 brings the noise to value noise's spread.
    return 1.6 * mix(rows[0], rows[1], up)


class LatticeCell(NamedTuple):
    """Distances of a place in the Voronoi diagram of one jittered point per lattice cell.

    Args:
        first: distance to the nearest point.
        second: distance to the second nearest.
        identity: a random number in [0, 1) that belongs to the nearest point.
    """

    first: Expr
    second: Expr
    identity: Expr


# Squared distances become whole multiples of 2^-16 with seven random bits below them, so that the
# smaller of two numbers carries the nearer point's identity along: no comparison, no selection.
_STEP = 2.0**-16


def voronoi(point: Point, salt: Expr, jitter: Scalar = 0.9) -> LatticeCell:
    """Return Voronoi's diagram over the lattice; `jitter` in [0, 1] is how irregular it is."""
    left, bottom = floor(point.x), floor(point.y)
    inside = Point(point.x - left, point.y - bottom)
    first = second = identity = lift(1e9)
    for dy in (-1.0, 0.0, 1.0):
        for dx in (-1.0, 0.0, 1.0):
            key = apply("xor_shift_16", lattice(left + dx, bottom + dy, salt))
            seed_x, seed_y = apply("unit_high", key), apply("unit_low", key)
            offset = Point(
                inside.x - (dx + 0.5) - jitter * seed_x, inside.y - (dy + 0.5) - jitter * seed_y
            )
            distance = offset.squared_length()
            second = smaller(second, larger(first, distance))
            first = smaller(first, distance)
            tagged = floor(distance * (1 / _STEP)) * 128.0 + floor(seed_x * 128.0 + 64.0)
            identity = smaller(identity, tagged)
    tag = identity - floor(identity * (1 / 128.0)) * 128.0
    return LatticeCell(sqrt(first), sqrt(second), tag * (1 / 128.0))
