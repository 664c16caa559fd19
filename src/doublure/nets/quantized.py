"""Fake quantization: layers that round their weights and inputs to a grid; see `nets.rounding`.

A layer that rounds is a twin of the layer it was: the same weights and keys, another forward.
Plain convolutions and linear layers have twins of their own. Of any other layer that multiplies by
weights (a transposed or one-dimensional convolution, a subclass with padding or standardised
weights of its own, a parametrised layer) the twin calls the layer's own forward and rounds the
weights where the product takes them. In `nn.MultiheadAttention` both projections round.

The record {"kind": "quantized", "layers": {name: {fields of `Grid`}}} holds all that the weights do
not.
"""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from doublure.core.bit_packing import pack_weight
from doublure.nets.rounding import (
    FLOAT,
    fake_quantize,
    fake_quantize_dynamic,
    fake_quantize_weight,
    weight_scales,
)

KIND = "quantized"
# Products whose weights stand second: name of the function, dimension of the output channels.
_PRODUCTS = {
    **{"conv1d": 0, "conv2d": 0, "conv3d": 0, "linear": 0},
    **{"conv_transpose1d": 1, "conv_transpose2d": 1, "conv_transpose3d": 1},
}
_LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
# Their own weight is what the product takes, with output channels along dimension 0.
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Quantization of one layer.

    Args:
        scale: scale of its inputs, if their range is static.
        zero_point: the integer of an input of 0, if their range is static.
        dynamic: whether the range of inputs is that of each sample.
        symmetric: whether that range is symmetric around 0.
    """

    weight_bits: int
    activation_bits: int
    scale: float = 1.0
    zero_point: int = 0
    dynamic: bool = False
    symmetric: bool = False

    def round_inputs(self, x: Tensor) -> Tensor:
        """Return a layer's inputs on the grid."""
        if self.dynamic:
            return fake_quantize_dynamic(x, self.activation_bits, is_symmetric=self.symmetric)
        return fake_quantize(x, self.scale, self.zero_point, self.activation_bits)


class Quantized(nn.Module):
    """A layer on a grid; made of another one by `quantize_`."""

    grid: Grid

    def round_weights(self, weight: Tensor) -> Tensor:
        """Return the weights of the product on their grid, along dimension 0."""
        return fake_quantize_weight(weight, self.grid.weight_bits)


class QuantizedConv2d(Quantized, nn.Conv2d):
    """A plain convolution on a grid."""

    def forward(self, input: Tensor) -> Tensor:
        x = self.grid.round_inputs(input)
        answer: Tensor = self._conv_forward(x, self.round_weights(self.weight), self.bias)
        return answer


class QuantizedLinear(Quantized, nn.Linear):
    """A plain linear layer on a grid."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(self.grid.round_inputs(input), self.round_weights(self.weight), self.bias)


class QuantizedAttention(Quantized, nn.MultiheadAttention):
    """Multi-head attention whose projections round; `out_proj` has a grid of its own."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        rounded = {id(x): self.grid.round_inputs(x) for x in (query, key, value)}
        turned = self.batch_first and query.dim() == 3
        if turned:
            rounded = {place: x.transpose(0, 1) for place, x in rounded.items()}
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        weights = {name: getattr(self, name) for name in names}
        whole, query_weight, key_weight, value_weight = (
            None if weight is None else fake_quantize_weight(weight, self.grid.weight_bits)
            for weight in weights.values()
        )
        # With the identity for an output projection, what enters the real one can be rounded.
        identity = torch.eye(self.embed_dim, dtype=query.dtype, device=query.device)
        mixed, attention = F.multi_head_attention_forward(
            rounded[id(query)],
            rounded[id(key)],
            rounded[id(value)],
            self.embed_dim,
            self.num_heads,
            whole,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            identity,
            None,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=whole is None,
            q_proj_weight=query_weight,
            k_proj_weight=key_weight,
            v_proj_weight=value_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return self.out_proj(mixed.transpose(0, 1) if turned else mixed), attention


class QuantizedProduct(Quantized):
    """Any other layer that multiplies by weights, on a grid; stands before its class."""

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        with RoundedWeights(self):
            return super().forward(self.grid.round_inputs(input), *args, **kwargs)


class RoundedWeights(TorchFunctionMode):
    """While this is active, the products of a layer take rounded weights."""

    def __init__(self, layer: Quantized) -> None:
        super().__init__()
        self.layer = layer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = dict(kwargs or {})
        axis = _PRODUCTS.get(getattr(func, "__name__", ""))
        if axis is None:
            return func(*args, **named)
        if len(args) > 1:
            args = (args[0], self._rounded(args[1], axis), *args[2:])
        else:
            named["weight"] = self._rounded(named["weight"], axis)
        return func(*args, **named)

    def _rounded(self, weight: Tensor, axis: int) -> Tensor:
        rounded = self.layer.round_weights(weight.transpose(0, axis).contiguous())
        return rounded.transpose(0, axis)


_TWINS: dict[type[nn.Module], type[Quantized]] = {
    nn.Conv2d: QuantizedConv2d,
    nn.Linear: QuantizedLinear,
    nn.MultiheadAttention: QuantizedAttention,
}

# Twins whose own weights, rounded, are what the product takes.
_PACKED = (QuantizedConv2d, QuantizedLinear)


def twin_of(kind: type[nn.Module]) -> type[Quantized]:
    """Return the class of the layers of a kind that round; one is made where there is none."""
    if kind not in _TWINS:
        parents = (QuantizedProduct, kind)
        _TWINS[kind] = type(f"Quantized{kind.__name__}", parents, {"__doc__": kind.__doc__})
    return _TWINS[kind]


def can_be_quantized(layer: nn.Module) -> bool:
    """Return whether a layer has a twin on a grid."""
    if isinstance(layer, Quantized):
        return False
    return isinstance(layer, _LAYERS) or type(layer) is nn.MultiheadAttention


def unfold_attention_(body: nn.Module) -> None:
    """Let attention call its output projection as a layer; nothing is rounded by it."""
    passing = Grid(weight_bits=FLOAT, activation_bits=FLOAT)
    for name, layer in list(body.named_modules()):
        if type(layer) is nn.MultiheadAttention:
            quantize_(body, {name: passing, f"{name}.out_proj" if name else "out_proj": passing})


def holds_plain_weight(layer: nn.Module) -> bool:
    """Return whether the layer's parameter `weight` is what its product takes, as it is."""
    return type(layer) in _PLAIN and "weight" in layer._parameters


def is_quantized(network: nn.Module) -> bool:
    """Return whether any layer of a network is quantized."""
    return any(isinstance(layer, Quantized) for layer in network.modules())


def quantize_(body: nn.Module, grids: Mapping[str, Grid]) -> None:
    """Quantize the named layers in place; their weights and keys are unchanged.

    Raises:
        ValueError: if one of them does not multiply by weights.
    """
    for name, grid in grids.items():
        layer = body.get_submodule(name)
        if not can_be_quantized(layer) and not isinstance(layer, Quantized):
            raise ValueError(f"cannot quantize '{name}', a {type(layer).__name__}")
        # The quantized class has the same attributes and another `forward`: weights, keys and
        # references to the layer are unchanged.
        if not isinstance(layer, Quantized):
            layer.__class__ = twin_of(type(layer))
        layer.grid = grid  # type: ignore[assignment]  # nn.Module types its attributes as tensors
    for layer in body.modules():
        if isinstance(layer, nn.TransformerEncoderLayer) and is_quantized(layer):
            # Its fused path in eval mode reads weights past the layers that round.
            layer.activation_relu_or_gelu = 0


def float_twin(body: nn.Module) -> nn.Module:
    """Return the network with quantized weights in plain layers.

    Raises:
        ValueError: a layer computes the weights that it rounds, so that none can be stored.
    """
    twin = copy.deepcopy(body)
    plain = {rounding: layer for layer, rounding in _TWINS.items()}
    for name, layer in twin.named_modules():
        if not isinstance(layer, Quantized):
            continue
        kind = plain[type(layer)]
        if kind not in _PLAIN or "weight" not in layer._parameters:
            raise ValueError(
                f"'{name}', a {kind.__name__}, rounds weights that it computes, or in another "
                "order than a product of the graph; export onnx"
            )
        with torch.no_grad():
            weight = layer._parameters["weight"]
            assert weight is not None
            weight.copy_(layer.round_weights(weight))
        layer.__class__ = kind  # type: ignore[assignment]  # its own base
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


def packed_state(body: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network, weights on grids as integers of their bits.

    Weights that a layer computes from others stay as they are.
    """
    state = dict(body.state_dict())
    tied = Counter(tensor.data_ptr() for tensor in state.values())
    for name, layer in body.named_modules():
        key = f"{name}.weight" if name else "weight"
        weight = layer._parameters.get("weight")
        if not isinstance(layer, Quantized) or weight is None or type(layer) not in _PACKED:
            continue
        bits = layer.grid.weight_bits
        if bits != FLOAT and weight.dtype == torch.float32 and tied[weight.data_ptr()] == 1:
            del state[key]
            scales = weight_scales(weight, bits)
            rounded = layer.round_weights(weight.detach())
            state |= pack_weight(key, rounded.cpu(), scales.cpu(), bits)
    return state


def record_of(body: nn.Module) -> dict[str, Any]:
    """Return the record of a quantized network."""
    return {"kind": KIND, "layers": {name: asdict(grid) for name, grid in grids_of(body).items()}}


def rebuild_(body: nn.Module, record: Mapping[str, Any]) -> None:
    """Quantize the layers of a record."""
    quantize_(body, {name: Grid(**grid) for name, grid in record["layers"].items()})
