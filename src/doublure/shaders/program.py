"""What a shader program is, and its images before they are painted."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from doublure.shaders.sketch import Ranges
from doublure.shaders.torch_code import TorchCode, uniform_values


@dataclass(frozen=True, kw_only=True)
class Program:
    """A formula for pictures, ready to be evaluated; seed and family say which one it is."""

    seed: int
    family: str
    ranges: Ranges
    code: TorchCode

    def instances(
        self,
        image_seeds: Int[Tensor, " images"],
        times: Float[Tensor, " images"],
        attempts: Int[Tensor, " images"] | None = None,
    ) -> "Instances":
        """Return the images of these seeds at these times in seconds.

        Args:
            attempts: how many times each image has been thrown away to be drawn anew.
        """
        if attempts is None:
            attempts = torch.zeros_like(image_seeds)
        parameters = self.ranges.parameters(image_seeds, attempts, times)
        floats, ints = uniform_values(self.code, parameters)
        return Instances(program=self, floats=floats, ints=ints)


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Images of one program that are ready to be painted.

    Args:
        floats: what the program's code reads as constants; `ints` are those it reads as integers.
    """

    program: Program
    floats: Float[Tensor, "constants images"]
    ints: Int[Tensor, "int_constants images"]

    @property
    def count(self) -> int:
        """How many images these are."""
        return self.floats.shape[1]

    def part(self, start: int, stop: int) -> "Instances":
        """Return some of them."""
        return Instances(
            program=self.program,
            floats=self.floats[:, start:stop],
            ints=self.ints[:, start:stop],
        )
