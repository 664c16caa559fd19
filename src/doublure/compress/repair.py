"""Repair after pruning: solve the remaining weights of a layer to reproduce its old outputs.

A layer whose inputs were pruned has weights W for the remaining inputs X, and its target Y is the
output of the unpruned layer. Its weights, and a constant c if the layer can have one, become

    argmin_{W, c} ||Y - X W^T - c||^2 + lambda ||W - W_0||^2,       lambda = ridge mean diag(X^T X)

with W_0 the weights after pruning. The error on the given images is therefore at most that of W_0.
X is the layer's input in the pruned network with all earlier layers already repaired, so that each
layer also compensates the remaining errors of the layers before it. The rows of X are patches at
random positions of the images.

The constant is added to the layer's bias, or to the running mean of the BatchNorm that follows.

He, Zhang, Sun: Channel Pruning for Accelerating Very Deep Neural Networks, arXiv:1707.06168,
equation 1 and section 3.3. Differs from the paper: the channels are not selected here, the ridge
penalises the distance from the weights after pruning, and there is a constant.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.core.seeding import child
from doublure.nets.channels import Channels
from doublure.nets.network import Network, freeze
from doublure.nets.pruned import Kept

Layer = nn.Conv2d | nn.Linear

# Relative to the mean square of an input; keeps the weights of near-constant inputs near W_0.
_RIDGE = 1e-3
# Lower bound of the mean square, for inputs that are all 0.
_LEAST_SQUARE = 1e-12
# All images are in one forward pass, which repairs each layer in turn: the limit in pixels.
_MOST_PIXELS = 2**21
# Patches of each layer: the number per unknown, and the minimum.
_PER_UNKNOWN, _FEWEST = 4, 8192
# Rows converted to float64 at a time.
_ROWS = 4096


def least_squares(
    inputs: Float[Tensor, "samples inputs"],
    answers: Float[Tensor, "samples outputs"],
    weight: Float[Tensor, "outputs inputs"],
    ridge: float,
    *,
    constant: bool,
) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"]]:
    """Return the weights and constants of smallest squared error near `weight`, from float64.

    Args:
        constant: whether to solve for a constant; otherwise it is 0.
    """
    zero = inputs.new_zeros(1, dtype=torch.float64)
    mean, target = (
        (part.double().mean(0) if constant else zero.expand(part.shape[1]))
        for part in (inputs, answers)
    )
    start, count = weight.double(), inputs.shape[1]
    gram = inputs.new_zeros(count, count, dtype=torch.float64)
    cross = inputs.new_zeros(count, len(weight), dtype=torch.float64)
    for first in range(0, len(inputs), _ROWS):
        rows = slice(first, first + _ROWS)
        x = inputs[rows].double() - mean
        gram += x.T @ x
        cross += x.T @ (answers[rows].double() - target - x @ start.T)
    # The ridge uses the uncentred mean square, so that weights of constant inputs do not change.
    square = gram.diagonal().mean() + len(inputs) * mean.square().mean()
    gram.diagonal().add_(ridge * square.clamp(min=_LEAST_SQUARE))
    solved = start + torch.linalg.solve(gram, cross).T
    return solved.to(weight.dtype), (target - solved @ mean).to(weight.dtype)


def repair(
    model: Network,
    pruned: Network,
    channels: Channels,
    kept: Mapping[str, Kept],
    images: Float[Tensor, "images channels height width"],
    rng: torch.Generator,
) -> Network:
    """Return `pruned` with each layer that lost inputs solved to match its outputs in `model`.

    Args:
        channels: the traced channels of `model`.
        kept: inputs and outputs that each layer keeps.
    """
    repaired = copy.deepcopy(pruned)
    lost = _layers(model, kept)
    images = images[: max(1, _MOST_PIXELS // images[0, 0].numel())]
    targets = _Targets(model, lost, kept, rng)
    with torch.no_grad():
        with targets.watching():
            targets.network(images)
        # A BatchNorm with a gate of its own does not only follow one layer: leave it unchanged.
        gated = {gate.layer for gates in channels.gates.values() for gate in gates}
        norms = {name: norm for name, norm in targets.behind.items() if name not in gated}
        # A view that shares its weights with `repaired`: they change during the forward pass.
        network = freeze(repaired)
        with _call_before(network, lost, lambda name, x: _solve_(network, name, x, targets, norms)):
            network(images)
    return repaired


def patches_at(
    layer: Layer, inputs: Tensor, places: Int64[Tensor, " samples"]
) -> Float[Tensor, "samples inputs"]:
    """Return the input patch of a layer at positions of its output, one row per position."""
    if isinstance(layer, nn.Linear):
        return inputs[places]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    sides = [
        (size - step * (kernel - 1) - 1) // stride + 1
        for size, step, kernel, stride in zip(
            padded.shape[2:], layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    ]
    image = places // (sides[0] * sides[1])
    rows, columns = (
        at[:, None] * stride + step * torch.arange(kernel, device=at.device)
        for at, stride, step, kernel in zip(
            (places // sides[1] % sides[0], places % sides[1]),
            layer.stride,
            layer.dilation,
            layer.kernel_size,
            strict=True,
        )
    )
    patches = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return patches.permute(0, 3, 1, 2).flatten(1)


class _Targets:
    """Outputs of layers of the unpruned network at random positions, and the norms that follow.

    `behind` has the BatchNorm whose input is the output of a convolution.
    """

    def __init__(
        self,
        model: Network,
        lost: Sequence[str],
        kept: Mapping[str, Kept],
        rng: torch.Generator,
    ) -> None:
        self.network = freeze(model)
        self.places: dict[str, Tensor] = {}
        self.answers: dict[str, Tensor] = {}
        self.behind: dict[str, str] = {}
        self._lost, self._kept, self._rng = lost, kept, rng
        self._last: tuple[str, Any] = ("", None)

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [
            _layer(self.network, name).register_forward_hook(self._record_output(name))
            for name in self._lost
        ]
        handles += [
            layer.register_forward_pre_hook(self._record_norm(name))
            for name, layer in self.network.named_modules()
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._last = ("", None)

    def _record_output(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        unknowns = _layer(self.network, name).weight[0].numel()

        def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            rows = output.movedim(1, -1).flatten(0, -2)
            count = min(len(rows), max(_FEWEST, _PER_UNKNOWN * unknowns))
            order = torch.randperm(len(rows), generator=child(self._rng, "places", name))
            self.places[name] = order[:count].to(rows.device)
            outputs = self._kept[name][1].to(rows.device)
            self.answers[name] = rows[self.places[name]][:, outputs]
            self._last = (name, output)

        return note

    def _record_norm(self, norm: str) -> Callable[[nn.Module, Any], None]:
        def note(layer: nn.Module, inputs: Any) -> None:
            name, output = self._last
            if inputs[0] is output:
                self.behind[name] = norm

        return note


def _layers(model: Network, kept: Mapping[str, Kept]) -> list[str]:
    """Return the convolutions and linear layers that lose inputs, without depthwise ones."""
    names = []
    for name, (inputs, _) in kept.items():
        layer = model.body.get_submodule(name)
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            names += [name] if len(inputs) < layer.in_channels else []
        elif isinstance(layer, nn.Linear):
            names += [name] if len(inputs) < layer.in_features else []
    return names


@contextmanager
def _call_before(
    network: nn.Module, names: Sequence[str], act: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `act` with the name and the input of each of these layers, before its forward."""
    handles = [
        _layer(network, name).register_forward_pre_hook(
            lambda _, inputs, name=name: act(name, inputs[0])
        )
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _solve_(
    network: nn.Module, name: str, inputs: Tensor, targets: _Targets, norms: Mapping[str, str]
) -> None:
    """Set the new weights of a layer, and its constant in the bias or in the BatchNorm."""
    layer, norm = _layer(network, name), None
    if name in norms:
        norm = network.get_submodule(norms[name])
    weight, constant = least_squares(
        patches_at(layer, inputs, targets.places[name]),
        targets.answers[name],
        layer.weight.flatten(1),
        _RIDGE,
        constant=not (layer.bias is None and norm is None),
    )
    layer.weight.copy_(weight.view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(constant)
    elif norm is not None:
        assert isinstance(norm.running_mean, Tensor)
        norm.running_mean.sub_(constant)


def _layer(network: nn.Module, name: str) -> Layer:
    """Return a convolution or linear layer of a network's architecture."""
    layer = network.get_submodule(f"body.{name}")
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer
