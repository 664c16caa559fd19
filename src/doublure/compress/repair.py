"""Repair after pruning: what is left of a layer answers, as well as it can, what the layer did.

A layer whose inputs were pruned has weights W for the inputs X that are left, and should answer Y,
what the unpruned layer answered. Its weights, and a constant c where something can hold one, become

    argmin_{W, c} ||Y - X W^T - c||^2 + lambda ||W - W_0||^2,       lambda = ridge mean diag(X^T X)

with W_0 the weights that pruning left. So the error on the images shown is at most that of W_0.
X is what the pruned network itself hands to the layer, all layers before it being repaired: what
those could not mend is mended here. The rows of X are patches, at random places of the images.

A constant is held by the layer's bias, or by the BatchNorm behind it, whose running mean moves.

He, Zhang, Sun: Channel Pruning for Accelerating Very Deep Neural Networks, arXiv:1707.06168,
equation 1 and section 3.3. Differs from the paper: which channels go is not chosen here, the ridge
pulls to the weights that were left, and there is a constant.
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

# Relative to the mean square of an input; keeps weights of inputs that hardly vary near W_0.
_RIDGE = 1e-3
# In place of the mean square where all inputs are 0, and the weights are as good as any.
_LEAST_SQUARE = 1e-12
# All images go through at once, each layer being repaired on the way; this many pixels hold.
_MOST_PIXELS = 2**21
# Patches of each layer: for each of its unknowns so many, and at least so many.
_PER_UNKNOWN, _FEWEST = 4, 8192
# Rows turned into float64 at a time.
_ROWS = 4096


def least_squares(
    inputs: Float[Tensor, "samples inputs"],
    answers: Float[Tensor, "samples outputs"],
    weight: Float[Tensor, "outputs inputs"],
    ridge: float,
    *,
    constant: bool,
) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"]]:
    """Return weights and constants that answer best, near `weight`; solved in float64.

    Args:
        constant: whether one is looked for; without, it is 0.
    """
    zero = inputs.new_zeros(1, dtype=torch.float64)
    mean, target = (
        (part.double().mean(0) if constant else zero.expand(part.shape[1]))
        for part in (inputs, answers)
    )
    start, count = weight.double(), inputs.shape[1]
    gram = inputs.new_zeros(count, count, dtype=torch.float64)
    missing = inputs.new_zeros(count, len(weight), dtype=torch.float64)
    for first in range(0, len(inputs), _ROWS):
        rows = slice(first, first + _ROWS)
        x = inputs[rows].double() - mean
        gram += x.T @ x
        missing += x.T @ (answers[rows].double() - target - x @ start.T)
    # Of inputs as they are, not about their mean: those that never vary stay where they were.
    square = gram.diagonal().mean() + len(inputs) * mean.square().mean()
    gram.diagonal().add_(ridge * square.clamp(min=_LEAST_SQUARE))
    solved = start + torch.linalg.solve(gram, missing).T
    return solved.to(weight.dtype), (target - solved @ mean).to(weight.dtype)


def repair(
    model: Network,
    pruned: Network,
    channels: Channels,
    kept: Mapping[str, Kept],
    images: Float[Tensor, "images channels height width"],
    rng: torch.Generator,
) -> Network:
    """Return `pruned` with each layer that lost inputs solved to answer as in `model`.

    Args:
        channels: of `model`, as traced.
        kept: inputs and outputs that each layer keeps.
    """
    made = copy.deepcopy(pruned)
    lost = _layers(model, kept)
    images = images[: max(1, _MOST_PIXELS // images[0, 0].numel())]
    seen = _Seen(model, lost, kept, rng)
    with torch.no_grad():
        with seen.watching():
            seen.network(images)
        alone = {gate.layer for gates in channels.gates.values() for gate in gates}
        behind = {name: norm for name, norm in seen.behind.items() if name not in alone}
        answering = freeze(made)  # shares the weights, which change under way
        with _before(answering, lost, lambda name, x: _solve_(answering, name, x, seen, behind)):
            answering(images)
    return made


def patches_at(
    layer: Layer, inputs: Tensor, places: Int64[Tensor, " samples"]
) -> Float[Tensor, "samples inputs"]:
    """Return what a layer multiplies its weights with at places of its answer, rows first."""
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
    found = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2).flatten(1)


class _Seen:
    """What layers of the unpruned network answer at places of their own, and what follows them.

    `behind` holds the BatchNorm that reads a convolution's answer.
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
            _layer(self.network, name).register_forward_hook(self._answered(name))
            for name in self._lost
        ]
        handles += [
            layer.register_forward_pre_hook(self._normalised(name))
            for name, layer in self.network.named_modules()
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._last = ("", None)

    def _answered(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        unknowns = _layer(self.network, name).weight[0].numel()

        def note(layer: nn.Module, inputs: Any, answer: Tensor) -> None:
            rows = answer.movedim(1, -1).flatten(0, -2)
            count = min(len(rows), max(_FEWEST, _PER_UNKNOWN * unknowns))
            drawn = torch.randperm(len(rows), generator=child(self._rng, "places", name))
            self.places[name] = drawn[:count].to(rows.device)
            outputs = self._kept[name][1].to(rows.device)
            self.answers[name] = rows[self.places[name]][:, outputs]
            self._last = (name, answer)

        return note

    def _normalised(self, norm: str) -> Callable[[nn.Module, Any], None]:
        def note(layer: nn.Module, inputs: Any) -> None:
            name, answer = self._last
            if inputs[0] is answer:
                self.behind[name] = norm

        return note


def _layers(model: Network, kept: Mapping[str, Kept]) -> list[str]:
    """Return the convolutions and linear layers that lose inputs; a depthwise one reads its own."""
    names = []
    for name, (inputs, _) in kept.items():
        layer = model.body.get_submodule(name)
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            names += [name] if len(inputs) < layer.in_channels else []
        elif isinstance(layer, nn.Linear):
            names += [name] if len(inputs) < layer.in_features else []
    return names


@contextmanager
def _before(
    network: nn.Module, names: Sequence[str], act: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Let something happen before each of these layers is called."""
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
    network: nn.Module, name: str, inputs: Tensor, seen: _Seen, behind: Mapping[str, str]
) -> None:
    """Give a layer its new weights, and its constant to whatever holds it."""
    layer, norm = _layer(network, name), None
    if name in behind:
        norm = network.get_submodule(behind[name])
    weight, constant = least_squares(
        patches_at(layer, inputs, seen.places[name]),
        seen.answers[name],
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
    """Return a layer of a network's architecture."""
    layer = network.get_submodule(f"body.{name}")
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer
