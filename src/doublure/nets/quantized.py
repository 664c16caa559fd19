"""Fake quantization: layers that round their weights and inputs to a grid, in float arithmetic.

fq(x) = (clip(round(x / s) + z, low, high) - z) s. Weights: symmetric, z = 0, one scale for each
output channel, s = max |w| / (2^(bits - 1) - 1), computed from the weights in each call. Inputs:
one scale and zero_point for the tensor, integers 0 to 2^bits - 1, fixed by calibration. The
gradient is that of the identity inside of the clip, and 0 outside (Bengio et al., arXiv:1308.3432).

The record {"kind": "quantized", "layers": {name: {"weight_bits", "activation_bits", "scale",
"zero_point"}}} holds what the weights do not. With 32 bits, values are unchanged.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

KIND = "quantized"
FLOAT = 32


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Quantization of one layer.

    Args:
        scale: scale of its inputs.
        zero_point: the integer of an input of 0.
    """

    weight_bits: int
    activation_bits: int
    scale: float = 1.0
    zero_point: int = 0


def weight_scales(
    weight: Float[Tensor, "outputs inputs *kernel"], bits: int
) -> Float[Tensor, " outputs"]:
    """Return the symmetric scale of each output channel; 1 for a channel of zeros."""
    largest = weight.detach().flatten(1).abs().amax(1)
    return torch.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1.0)


def fake_quantize_weight(
    weight: Float[Tensor, "outputs inputs *kernel"], bits: int
) -> Float[Tensor, "outputs inputs *kernel"]:
    """Return the quantized weights; with 32 bits, the weights themselves."""
    if bits == FLOAT:
        return weight
    highest = 2 ** (bits - 1) - 1
    scales = weight_scales(weight, bits)
    if _is_exported(weight):
        scales = scales.view(-1, *[1] * (weight.dim() - 1))
        return (weight * (1.0 / scales)).round().clamp(-highest, highest) * scales
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    rounded: Tensor = torch.fake_quantize_per_channel_affine(
        weight, scales, zeros, 0, -highest, highest
    )
    return rounded


def fake_quantize(
    x: Float[Tensor, "*shape"], scale: float, zero_point: int, bits: int
) -> Float[Tensor, "*shape"]:
    """Return quantized activations; with 32 bits, the values themselves."""
    if bits == FLOAT:
        return x
    if _is_exported(x):
        integers = (x * (1.0 / torch.tensor(scale)).item()).round() + zero_point
        return (integers.clamp(0, 2**bits - 1) - zero_point) * scale
    made: Tensor = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 2**bits - 1)
    return made


def _is_exported(x: Tensor) -> bool:
    """Return whether a tracer without support for fake quantization is recording."""
    return torch.compiler.is_compiling() and not x.requires_grad


class QuantizedConv2d(nn.Conv2d):
    """A quantized convolution, from a plain one by `quantize_`, with the same keys."""

    grid: Grid

    def forward(self, input: Tensor) -> Tensor:
        grid = self.grid
        x = fake_quantize(input, grid.scale, grid.zero_point, grid.activation_bits)
        weight = fake_quantize_weight(self.weight, grid.weight_bits)
        answer: Tensor = self._conv_forward(x, weight, self.bias)
        return answer


class QuantizedLinear(nn.Linear):
    """A quantized linear layer, from a plain one by `quantize_`, with the same keys."""

    grid: Grid

    def forward(self, input: Tensor) -> Tensor:
        grid = self.grid
        x = fake_quantize(input, grid.scale, grid.zero_point, grid.activation_bits)
        return F.linear(x, fake_quantize_weight(self.weight, grid.weight_bits), self.bias)


Quantized = QuantizedConv2d | QuantizedLinear
_TWINS: dict[type[nn.Module], type[Quantized]] = {
    nn.Conv2d: QuantizedConv2d,
    nn.Linear: QuantizedLinear,
}


def can_be_quantized(layer: nn.Module) -> bool:
    """Return whether a layer has a quantized version."""
    return type(layer) in _TWINS


def is_quantized(network: nn.Module) -> bool:
    """Return whether any layer of a network is quantized."""
    return any(isinstance(layer, Quantized) for layer in network.modules())


def quantize_(body: nn.Module, grids: Mapping[str, Grid]) -> None:
    """Quantize the named layers in place; their weights and keys are unchanged.

    Raises:
        ValueError: if one of them is neither a plain Conv2d nor a plain Linear.
    """
    for name, grid in grids.items():
        layer = body.get_submodule(name)
        if not can_be_quantized(layer) and not isinstance(layer, Quantized):
            raise ValueError(f"cannot quantize '{name}', a {type(layer).__name__}")
        # The quantized class has the same attributes and another `forward`: weights, keys and
        # references to the layer are unchanged.
        layer.__class__ = _TWINS.get(type(layer), type(layer))
        layer.grid = grid  # type: ignore[assignment]  # nn.Module types its attributes as tensors


def float_twin(body: nn.Module) -> nn.Module:
    """Return the network with quantized weights in plain layers."""
    twin = copy.deepcopy(body)
    plain = {rounding: layer for layer, rounding in _TWINS.items()}
    for layer in twin.modules():
        if isinstance(layer, Quantized):
            with torch.no_grad():
                layer.weight.copy_(fake_quantize_weight(layer.weight, layer.grid.weight_bits))
            layer.__class__ = plain[type(layer)]  # type: ignore[assignment]  # its own base
    return twin


def grids_of(body: nn.Module) -> dict[str, Grid]:
    """Return the grid of each quantized layer."""
    return {
        name: layer.grid for name, layer in body.named_modules() if isinstance(layer, Quantized)
    }


@torch.no_grad()
def grids_as_called(network: nn.Module, inputs: Tensor) -> list[Grid]:
    """Return the grid of each quantized layer, in the order of their calls.

    That is the order of a traced graph; `grids_of` has the order of definition.
    """
    called: list[Grid] = []

    def note(layer: Quantized, _: object) -> None:
        called.append(layer.grid)

    handles = [
        layer.register_forward_pre_hook(note)
        for layer in network.modules()
        if isinstance(layer, Quantized)
    ]
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return called


def record_of(body: nn.Module) -> dict[str, Any]:
    """Return the record of a quantized network."""
    return {"kind": KIND, "layers": {name: asdict(grid) for name, grid in grids_of(body).items()}}


def rebuild_(body: nn.Module, record: Mapping[str, Any]) -> None:
    """Quantize the layers of a record."""
    quantize_(body, {name: Grid(**grid) for name, grid in record["layers"].items()})
