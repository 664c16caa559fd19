"""Adaptive rounding: each weight goes up or down as the layer's outputs like it best.

The integers of a channel's weights are n = floor(w / s) + h, h in {0, 1}, chosen to minimise

    E |W_q x - W x|^2 = sum_o d_o H d_o',    d = W_q - W,  H = E[x x']

over the layer's inputs x (patches of a convolution) on the calibration images. h is relaxed to
clip(1.2 sigmoid(v) - 0.1, 0, 1), with the penalty lambda sum (1 - |2 h - 1|^beta), beta going from
20 to 2 (Nagel et al.: Up or Down? Adaptive Rounding for Post-Training Quantization,
arXiv:2004.10568, eq. 21 to 24).

Differs from the paper: the objective is taken from second moments, so that a step costs one product
of matrices and no pass over images; 400 steps instead of 10,000; a channel whose nearest rounding
has the smaller error keeps it.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.compress.layer_calls import watch_inputs
from doublure.nets.network import Network
from doublure.nets.rounding import weight_scales

_STEPS = 400
_RATE = 2e-2
_PENALTY = 0.01
_WARM_UP = 0.2
_STEEPEST, _FLATTEST = 20.0, 2.0
_STRETCH = (-0.1, 1.1)
# Positions of a convolution's output that H is taken over, of each batch.
_POSITIONS = 8192


def adaptive_weights(
    weight: Float[Tensor, "outputs inputs"], moments: Float[Tensor, "inputs inputs"], bits: int
) -> Float[Tensor, "outputs inputs"]:
    """Return the weights on their grid, each rounded up or down.

    Args:
        moments: H, the second moments of the inputs.
    """
    highest = 2 ** (bits - 1) - 1
    scales = weight_scales(weight, bits)[:, None]
    steps = weight / scales
    nearest = steps.round().clamp(-highest, highest)
    floor = steps.floor()
    # The largest weight of a channel stays where it is: the scale is read off it.
    held = nearest.abs() == highest
    rest = (steps - floor).clamp(1e-4, 1 - 1e-4)
    low, high = _STRETCH
    start = ((rest - low) / (high - low)).logit()
    v = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([v], lr=_RATE)
    moments = moments / moments.diagonal().mean().clamp(min=1e-12)

    def error_of(h: Tensor) -> Tensor:
        return torch.where(held, nearest, floor + h).clamp(-highest, highest) - steps

    for step in range(_STEPS):
        way = (step / _STEPS - _WARM_UP) / (1 - _WARM_UP)
        beta = _STEEPEST + (_FLATTEST - _STEEPEST) * way
        with torch.enable_grad():
            h = (v.sigmoid() * (high - low) + low).clamp(0, 1)
            error = error_of(h)
            loss = ((error @ moments) * error).sum()
            if way > 0:
                loss = loss + _PENALTY * (1 - (2 * h - 1).abs() ** beta).sum()
        (v.grad,) = torch.autograd.grad(loss, [v])
        optimizer.step()
    up = (v.detach() > 0).to(steps)
    adaptive, plain = error_of(up), nearest - steps
    errors = [((error @ moments) * error).sum(1) for error in (adaptive, plain)]
    better = (errors[0] < errors[1])[:, None]
    return (torch.where(better, adaptive, plain) + steps).round() * scales


def round_adaptively_(network: Network, bits: Mapping[str, int], images: Sequence[Tensor]) -> None:
    """Put the weights of the named layers on their grids, by the inputs they get from `images`.

    Args:
        bits: of the weights, by layer; each holds its weight plainly. Those of one- and
            three-dimensional convolutions stay as they are.
    """
    bits = {
        name: width
        for name, width in bits.items()
        if isinstance(network.body.get_submodule(name), nn.Conv2d | nn.Linear)
    }
    moments = input_moments(network, list(bits), images)
    for name, width in bits.items():
        layer = network.body.get_submodule(name)
        weight = layer._parameters["weight"]
        assert weight is not None
        flat, groups = weight.detach().flatten(1), len(moments[name])
        parts = zip(flat.chunk(groups), moments[name], strict=True)
        rounded = torch.cat([adaptive_weights(part, square, width) for part, square in parts])
        with torch.no_grad():
            weight.copy_(rounded.view_as(weight))


def input_moments(
    network: Network, names: Sequence[str], images: Sequence[Tensor]
) -> dict[str, Float[Tensor, "groups inputs inputs"]]:
    """Return H of each named layer, one matrix for each group of its channels."""
    sums: dict[str, Tensor] = {}

    def note(name: str, x: Tensor) -> None:
        rows = _rows(network.body.get_submodule(name), x)
        now = rows.transpose(1, 2) @ rows
        sums[name] = sums[name] + now if name in sums else now

    watch_inputs(network, names, images, note)
    return sums


def _rows(layer: nn.Module, x: Tensor) -> Float[Tensor, "groups rows inputs"]:
    """Return what a layer multiplies by its weights, one row a position, by group."""
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(1, -1, x.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    patches = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    every = max(1, patches.shape[0] * patches.shape[2] // _POSITIONS)
    rows = patches.transpose(1, 2).reshape(-1, patches.shape[1])[::every]
    return rows.view(len(rows), layer.groups, -1).transpose(0, 1)
