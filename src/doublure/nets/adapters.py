"""Adapters from a student's features to the width and size of a teacher's.

A 1 x 1 convolution (optionally with BatchNorm) for maps, a linear layer for vectors, both with
weights from a given random generator; the larger of two maps is averaged down to the smaller. They
belong to the loss: trained and checkpointed with the student, never exported with it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def conv_adapter(
    inputs: int, outputs: int, rng: torch.Generator, *, kernel: int = 1, norm: bool = True
) -> nn.Sequential:
    """Return a convolution that keeps the size, optionally followed by BatchNorm."""
    # Built on "meta" first: torch would draw the weights from its global generator.
    conv = nn.Conv2d(
        inputs, outputs, kernel, padding=kernel // 2, bias=not norm, device="meta"
    ).to_empty(device="cpu")
    # Fan-out, as everywhere in this library; see nets.he_normal.
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu", generator=rng)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs)) if norm else nn.Sequential(conv)


def linear_adapter(inputs: int, outputs: int, rng: torch.Generator) -> nn.Linear:
    """Return a linear layer with initial weights of variance 1 / inputs and zero bias."""
    linear = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.normal_(linear.weight, std=inputs**-0.5, generator=rng)
    nn.init.zeros_(linear.bias)
    return linear


def to_smaller(
    student: Float[Tensor, "batch inputs h w"], teacher: Float[Tensor, "batch outputs y x"]
) -> tuple[Float[Tensor, "batch inputs hy wx"], Float[Tensor, "batch outputs hy wx"]]:
    """Return both maps averaged down to the smaller height and the smaller width."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    student, teacher = (
        x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher)
    )
    return student, teacher
