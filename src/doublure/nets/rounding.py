"""Rounding to a grid of few bits, in float arithmetic.

fq(x) = (clip(round(x / s) + z, low, high) - z) s.

Weights: symmetric, z = 0, one scale for each output channel, s = max |w| / (2^(bits - 1) - 1).
Activations: integers 0 to 2^bits - 1. A static range [a, b] holds for all inputs; a dynamic one is
that of the very sample, a = min(0, min x), b = max(0, max x). An affine grid has s = (b - a) /
(2^bits - 1), z = round(-a / s); a symmetric one s = max(-a, b) / (2^(bits - 1) - 1), z in the
middle. Zero is always on the grid. The gradient passes straight through the rounding inside of the
clip, and is 0 outside (Bengio et al., arXiv:1308.3432).

32 bits: not rounded, bit for bit.
"""

import torch
from jaxtyping import Float
from torch import Tensor

FLOAT = 32


def weight_scales(
    weight: Float[Tensor, "outputs inputs *kernel"], bits: int
) -> Float[Tensor, " outputs"]:
    """Return the symmetric scale of each output channel; 1 for a channel of zeros."""
    highest = 2 ** (bits - 1) - 1
    largest = weight.detach().flatten(1).abs().amax(1)
    # In floats (s m) / m need not be s, but is where s was rounded so before: weights on their
    # grid keep their scale bit for bit.
    return torch.where(largest > 0, (largest / highest * highest) / highest, 1.0)


def fake_quantize_weight(
    weight: Float[Tensor, "outputs inputs *kernel"], bits: int
) -> Float[Tensor, "outputs inputs *kernel"]:
    """Return the weights on their grid; with 32 bits, the weights themselves."""
    if bits == FLOAT:
        return weight
    highest = 2 ** (bits - 1) - 1
    scales = weight_scales(weight, bits)
    if is_exported(weight):
        scales = scales.view(-1, *[1] * (weight.dim() - 1))
        return (weight * (1.0 / scales)).round().clamp(-highest, highest) * scales
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    rounded: Tensor = torch.fake_quantize_per_channel_affine(
        weight, scales, zeros, 0, -highest, highest
    )
    return rounded


def affine(low: float, high: float, bits: int) -> tuple[float, int]:
    """Return scale and zero_point of a range, which is extended to include 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return 1.0, 0
    # The kernels compute in float32: round the scale in the same way.
    scale = torch.tensor((high - low) / (2**bits - 1)).item()
    if scale == 0.0:
        return 1.0, 0
    return scale, min(max(round(-low / scale), 0), 2**bits - 1)


def symmetric(low: float, high: float, bits: int) -> tuple[float, int]:
    """Return scale and zero_point, the middle of the integers, of the range [-m, m]."""
    middle = 2 ** (bits - 1)
    scale = torch.tensor(max(-low, high, 0.0) / (middle - 1)).item()
    return (scale if scale > 0.0 else 1.0), middle


def fake_quantize(
    x: Float[Tensor, "*shape"], scale: float, zero_point: int, bits: int
) -> Float[Tensor, "*shape"]:
    """Return values on the grid of an activation; with 32 bits, the values themselves."""
    if bits == FLOAT:
        return x
    if is_exported(x):
        integers = (x * (1.0 / torch.tensor(scale)).item()).round() + zero_point
        return (integers.clamp(0, 2**bits - 1) - zero_point) * scale
    made: Tensor = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 2**bits - 1)
    return made


def fake_quantize_dynamic(
    x: Float[Tensor, "samples ..."], bits: int, *, is_symmetric: bool
) -> Float[Tensor, "samples ..."]:
    """Return values on the grid of the range of their own sample; a constant 0 stays as it is.

    A sample is one index of the first dimension: what it is rounded to depends on no other one.
    """
    if bits == FLOAT:
        return x
    flat = x.detach().reshape(x.shape[0], -1)
    low, high = flat.amin(1).clamp(max=0.0), flat.amax(1).clamp(min=0.0)
    highest = 2**bits - 1
    if is_symmetric:
        middle = 2 ** (bits - 1)
        scale = torch.maximum(-low, high) / (middle - 1)
        zero_point = torch.full_like(scale, middle)
    else:
        scale = (high - low) / highest
        zero_point = (-low / scale).round()
    shape = (-1, *[1] * (x.dim() - 1))
    constant = (scale == 0).view(shape)
    scale = torch.where(scale == 0, 1.0, scale).view(shape)
    zero_point = torch.where(zero_point.isfinite(), zero_point, 0.0).view(shape)
    integers = ((x / scale).round() + zero_point).clamp(0, highest)
    rounded = torch.where(constant, x, (integers - zero_point) * scale)
    # Straight through: a range of the sample itself clips nothing.
    return x + (rounded - x).detach() if x.requires_grad else rounded


def is_exported(x: Tensor) -> bool:
    """Return whether a tracer that knows no fake quantization is writing down what happens."""
    return torch.compiler.is_compiling() and not x.requires_grad
