"""Random choices of a program: its structure from the program's seed, constants from the image's.

A `Sketch` makes choices (how many octaves, which palette) by hashing its seed, so that a program
is always the same; and it declares *parameters* with a range. An image's seed and its time
determine their values. So one program has as many images as there are seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from doublure.core.seeding import child_seed
from doublure.shaders.expressions import Expr, parameter
from doublure.shaders.functions import TURN, Point, floor

Option = TypeVar("Option")
_WORD = 0xFFFFFFFF


class Range(NamedTuple):
    """Range of a parameter: uniform, or uniform on a logarithmic scale."""

    low: float
    high: float
    logarithmic: bool = False


class Sketch:
    """A program under construction; slot 0 of its parameters is the time."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._num_choices = 0
        self.ranges: list[Range] = [Range(0.0, 0.0)]
        self.time = parameter(0)

    def pick(self, options: Sequence[Option]) -> Option:
        """Return one of `options`, always the same one for this program."""
        self._num_choices += 1
        return options[child_seed(self._seed, "choice", self._num_choices) % len(options)]

    def chance(self, share: float) -> bool:
        """Return True in `share` of all programs."""
        return self.pick(range(1 << 16)) < share * (1 << 16)

    def uniform(self, low: float, high: float) -> Expr:
        """Return a parameter between `low` and `high`."""
        return self._parameter(Range(low, high))

    def logarithmic(self, low: float, high: float) -> Expr:
        """Return a positive parameter whose logarithm is uniform."""
        return self._parameter(Range(low, high, logarithmic=True))

    def angle(self) -> Expr:
        """Return an angle in radians, any direction."""
        return self.uniform(0.0, TURN)

    def phase(self, fastest: float = 0.3) -> Expr:
        """Return a number of turns that moves with the time, at most `fastest` turns a second."""
        return self.uniform(0.0, 1.0) + self.time * self.uniform(-fastest, fastest)

    def salt(self) -> Expr:
        """Return a whole number that makes one image's lattice differ from another's."""
        return floor(self.uniform(0.0, float(1 << 23)))

    def side(self) -> Expr:
        """Return -1 or 1."""
        return floor(self.uniform(0.0, 2.0)) * 2.0 - 1.0

    def place(self, reach: float) -> Point:
        """Return a point in the square of half-width `reach` about the origin."""
        return Point(self.uniform(-reach, reach), self.uniform(-reach, reach))

    def view(self, point: Point, nearest: float, farthest: float, tilt: float = math.pi) -> Point:
        """Return `point` as seen through a random turn, shift and zoom.

        Args:
            nearest: the smallest factor on coordinates; `farthest` is the largest.
            tilt: the largest turn in radians, either way.
        """
        centre = self.place(1.0)
        turned = point.shifted(centre.x, centre.y).rotated(self.uniform(-tilt, tilt))
        return turned.scaled(self.logarithmic(nearest, farthest))

    def _parameter(self, allowed: Range) -> Expr:
        self.ranges.append(allowed)
        return parameter(len(self.ranges) - 1)


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The ranges of a program's parameters as columns, for many images."""

    low: Float[Tensor, "slots 1"]
    span: Float[Tensor, "slots 1"]
    logarithmic: Tensor

    @classmethod
    def of(cls, ranges: Sequence[Range]) -> "Ranges":
        """Return the columns of `ranges`."""
        ends = torch.tensor(
            [
                (math.log(each.low), math.log(each.high)) if each.logarithmic else each[:2]
                for each in ranges
            ],
            dtype=torch.float64,
        )
        return cls(
            low=ends[:, :1],
            span=ends[:, 1:] - ends[:, :1],
            logarithmic=torch.tensor([each.logarithmic for each in ranges]).nonzero().flatten(),
        )

    def parameters(
        self,
        image_seeds: Int[Tensor, " batch"],
        attempts: Int[Tensor, " batch"],
        times: Float[Tensor, " batch"],
    ) -> Float[Tensor, "slots batch"]:
        """Return every image's parameters, in float64; each is a function of its own seed.

        Args:
            attempts: number of rejected earlier draws of each image.
            times: in seconds.
        """
        values = self.low + self.span * uniforms(image_seeds, attempts, len(self.low))
        values[self.logarithmic] = values[self.logarithmic].exp()
        values[0] = times
        return values


def uniforms(
    seeds: Int[Tensor, " batch"], attempts: Int[Tensor, " batch"], count: int
) -> Float[Tensor, "count batch"]:
    """Return `count` numbers in [0, 1) for each seed: hashes, without any state."""
    places = torch.arange(1, count + 1, dtype=torch.int64).unsqueeze(1)
    key = _scrambled(seeds & _WORD)
    key = _scrambled((key + (seeds >> 32) + attempts * 0x85EBCA77) & _WORD)
    return _scrambled((key + places * 0x9E3779B1) & _WORD).to(torch.float64) * 2.0**-32


def _scrambled(word: Tensor) -> Tensor:
    """Return `lowbias32` of 32-bit words held in int64."""
    word = word ^ (word >> 16)
    word = (word * 0x7FEB352D) & _WORD
    word = word ^ (word >> 15)
    word = (word * 0x846CA68B) & _WORD
    return word ^ (word >> 16)
