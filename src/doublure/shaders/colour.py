"""Colour for shader programs: colours, palettes that turn a number into one, light and tone."""

from collections.abc import Callable
from typing import NamedTuple

from doublure.shaders.expressions import Expr, Scalar
from doublure.shaders.functions import TURN, Point, clamp01, cos, gradient_noise, mix, ramp
from doublure.shaders.sketch import Sketch


class Colour(NamedTuple):
    """Red, green and blue; 0 is black, 1 is full."""

    red: Expr
    green: Expr
    blue: Expr

    def mixed(self, other: "Colour", weight: Scalar) -> "Colour":
        """Return the line from this colour (weight 0) to `other` (weight 1)."""
        return Colour(
            *(mix(mine, theirs, weight) for mine, theirs in zip(self, other, strict=True))
        )

    def lit(self, light: Scalar) -> "Colour":
        """Return the colour multiplied by an amount of light."""
        return Colour(*(channel * light for channel in self))

    def raised(self, amount: Scalar) -> "Colour":
        """Return the colour with the same amount added to each channel."""
        return Colour(*(channel + amount for channel in self))


Palette = Callable[[Expr], Colour]

# Hues in turns (0 red, 1/3 green, 2/3 blue) and the largest chroma: where nature's colours lie.
_TINTS = {
    "earth": ((0.02, 0.14), 0.22),
    "foliage": ((0.15, 0.38), 0.2),
    "sky": ((0.52, 0.68), 0.25),
    "water": ((0.42, 0.66), 0.18),
    "skin": ((0.98, 1.1), 0.15),
    "metal": ((0.0, 1.0), 0.04),
    "grey": ((0.0, 1.0), 0.015),
    "any": ((0.0, 1.0), 0.25),
    "vivid": ((0.0, 1.0), 0.5),
}
TINTS = tuple(_TINTS)


def tinted(lightness: Scalar, chroma: Scalar, hue: Expr) -> Colour:
    """Return a colour by lightness, chroma and hue in turns."""
    return Colour(*(lightness + chroma * cos((hue - third / 3) * TURN) for third in range(3)))


def colour(
    sketch: Sketch, tint: str = "any", darkest: float = 0.08, lightest: float = 0.92
) -> Colour:
    """Return a uniform random colour of the tint, different for every image."""
    (low, high), strongest = _TINTS[tint]
    lightness = sketch.uniform(darkest, lightest)
    return tinted(lightness, sketch.uniform(0.0, strongest), sketch.uniform(low, high))


def gradient_palette(sketch: Sketch, tints: tuple[str, ...]) -> Palette:
    """Return a palette that runs smoothly through one colour of each tint."""
    # Mostly alternating light and dark: neighbours of equal lightness would give low contrast.
    alternate, first = sketch.chance(0.6), sketch.pick((0, 1))
    halves = ((0.04, 0.45), (0.5, 0.96))
    stops = [
        colour(sketch, tint, *(halves[(index + first) % 2] if alternate else (0.08, 0.92)))
        for index, tint in enumerate(tints)
    ]

    def palette(value: Expr) -> Colour:
        result = stops[0]
        for index, stop in enumerate(stops[1:]):
            result = result.mixed(stop, ramp(value * (len(stops) - 1) - float(index)))
        return result

    return palette


def lightness_palette(sketch: Sketch, tint: str) -> Palette:
    """Return a palette of one hue from dark to light: a material, not a rainbow."""
    (low, high), strongest = _TINTS[tint]
    dark, light = sketch.uniform(0.02, 0.4), sketch.uniform(0.45, 0.98)
    chroma, hue = sketch.uniform(0.0, strongest), sketch.uniform(low, high)
    drift = sketch.uniform(-0.08, 0.08)

    def palette(value: Expr) -> Colour:
        bounded = clamp01(value)
        base, top = tinted(dark, chroma * 0.6, hue), tinted(light, chroma, hue + drift)
        return base.mixed(top, bounded)

    return palette


def cosine_palette(sketch: Sketch) -> Palette:
    """Return rgb = 1/2 + 1/2 cos(2 pi (c value + d)), c uniform in [0, 2]^3, d in [0, 1]^3."""
    waves = [(sketch.uniform(0.0, 2.0), sketch.uniform(0.0, 1.0)) for _ in range(3)]

    def palette(value: Expr) -> Colour:
        return Colour(*(0.5 + 0.5 * cos(value * (c * TURN) + d * TURN) for c, d in waves))

    return palette


def two_tone_palette(sketch: Sketch) -> Palette:
    """Return a palette of two colours with a soft edge somewhere between."""
    first, second = colour(sketch, sketch.pick(TINTS)), colour(sketch, sketch.pick(TINTS))
    edge, slope = sketch.uniform(0.3, 0.7), sketch.logarithmic(2.0, 14.0)

    def palette(value: Expr) -> Colour:
        return first.mixed(second, clamp01(0.5 + (value - edge) * slope))

    return palette


def any_palette(sketch: Sketch) -> Palette:
    """Return a palette of one kind or another, mostly of the muted ones."""
    kind = sketch.pick(
        ("material", "material", "gradient", "gradient", "gradient", "two", "cosine")
    )
    if kind == "material":
        return lightness_palette(sketch, sketch.pick(TINTS))
    if kind == "gradient":
        count = sketch.pick((2, 3, 3, 4))
        return gradient_palette(sketch, tuple(sketch.pick(TINTS) for _ in range(count)))
    return two_tone_palette(sketch) if kind == "two" else cosine_palette(sketch)


def toned(sketch: Sketch, painted: Colour, point: Point) -> Colour:
    """Return the picture as a camera might have taken it: light, contrast, exposure, grain."""
    if sketch.chance(0.5):
        lamp = sketch.angle()
        slope = sketch.uniform(0.0, 0.45)
        painted = painted.lit(1.0 + slope * (point.x * cos(lamp) + point.y * cos(lamp + TURN / 4)))
    if sketch.chance(0.2):
        painted = painted.lit(1.0 - sketch.uniform(0.1, 0.4) * point.squared_length())
    if sketch.chance(0.35):
        grain = gradient_noise(sketch.view(point, 4.0, 16.0), sketch.salt())
        painted = painted.raised(sketch.uniform(0.02, 0.25) * grain)
    if sketch.chance(0.3):
        grey = (painted.red + painted.green + painted.blue) * (1 / 3)
        painted = painted.mixed(Colour(grey, grey, grey), sketch.uniform(0.0, 1.0))
    contrast, exposure = sketch.logarithmic(0.65, 1.6), sketch.uniform(-0.15, 0.15)
    return Colour(*(clamp01(0.5 + (c - 0.5) * contrast + exposure) for c in painted))
