"""Expressions evaluated on a small grid, for the tests of what shader programs are written in."""

import torch
from torch import Tensor

from doublure.shaders.expressions import Expr, number
from doublure.shaders.program import Program
from doublure.shaders.sketch import Range, Ranges
from doublure.shaders.torch_backend import TorchPainter
from doublure.shaders.torch_code import compile_torch

CPU = torch.device("cpu")


def program(*outputs: Expr, ranges: tuple[Range, ...] = (Range(0.0, 0.0),)) -> Program:
    """Return a program of these three colours."""
    code = compile_torch(number(outputs))
    return Program(seed=0, family="", ranges=Ranges.of(ranges), code=code)


def painted(value: Expr, size: tuple[int, int] = (8, 8), time: float = 0.0) -> Tensor:
    """Return one expression's values over the grid, row by row from the top."""
    times = torch.tensor([time], dtype=torch.float64)
    instances = program(value, value, value).instances(torch.tensor([0]), times)
    return TorchPainter(CPU).paint([instances], size, 1)[0, 0]
