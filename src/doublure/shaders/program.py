"""Shader programs, and their images before rendering."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from doublure.shaders.sketch import Ranges
from doublure.shaders.torch_code import TorchCode, uniform_values


@dataclass(frozen=True, kw_only=True)
class Program:
    """A formula for pictures, ready for evaluation, identified by seed and family."""

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
            attempts: number of rejected earlier draws of each image.
        """
        if attempts is None:
            attempts = torch.zeros_like(image_seeds)
        parameters = self.ranges.parameters(image_seeds, attempts, times)
        floats, ints = uniform_values(self.code, parameters)
        return Instances(program=self, floats=floats, ints=ints)


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Images of one program, ready for rendering.

    Args:
        floats: constants of the program's code; `ints` are the integer ones.
    """

    program: Program
    floats: Float[Tensor, "constants images"]
    ints: Int[Tensor, "int_constants images"]

    @property
    def count(self) -> int:
        """The number of images."""
        return self.floats.shape[1]

    def part(self, start: int, stop: int) -> "Instances":
        """Return some of them."""
        return Instances(
            program=self.program,
            floats=self.floats[:, start:stop],
            ints=self.ints[:, start:stop],
        )
