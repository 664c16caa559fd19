"""Least squares for a linear map of a network: the change of it that explains a residual best.

Of a layer with weights A and rows u of inputs (for a convolution the patch behind each place of
its answer), the change (D, e) of weights and constant that a residual r is explained by is

    argmin  sum |u D + e - r|^2 + ridge tr(U'U) / d |D|^2

over all rows: one system of d + 1 equations for each group of the layer, in float64. At D = 0
nothing is changed, so that the sum of squares never grows, and a residual of zero changes nothing.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor, nn

from understudy.nets.readouts import LinearMap, Places, width_of


def input_rows(layer: nn.Module, given: Tensor, places: Places) -> Tensor:
    """Return groups x rows x features of what a layer sees behind these places of its answer."""
    if not isinstance(layer, nn.Conv2d):
        return given[places][None]
    batch, y, x = places
    padding = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(given, padding, mode=mode) if any(padding) else given
    (height, width), (down, right) = layer.kernel_size, layer.stride
    rows = (y * down)[:, None, None] + layer.dilation[0] * torch.arange(height).to(y)[:, None]
    columns = (x * right)[:, None, None] + layer.dilation[1] * torch.arange(width).to(x)
    # rows x height x width x channels -> groups x rows x (channels of a group, height, width)
    patches = padded[batch[:, None, None], :, rows, columns].movedim(-1, 1)
    grouped = patches.reshape(len(batch), layer.groups, -1)
    return grouped.movedim(1, 0)


def draw_places(shape: tuple[int, ...], count: int, rng: torch.Generator) -> Places:
    """Return indices into all dimensions of an answer but that of its channels.

    Args:
        count: of places; all of them where an answer has no more.
    """
    grid = (shape[0], *shape[2:]) if len(shape) == 4 else shape[:-1]
    total = int(torch.tensor(grid).prod())
    drawn = torch.randperm(total, generator=rng)[:count] if count < total else torch.arange(total)
    return tuple(torch.unravel_index(drawn, grid))


@dataclass
class NormalEquations:
    """Sums over rows, slice by slice: memory does not grow with the rows.

    Args:
        gram: of features and a constant 1, for each group.
        cross: of those with the residuals.
        squares: sum of squared residuals of each output.
    """

    gram: Float64[Tensor, "groups features features"]
    cross: Float64[Tensor, "groups features outputs"]
    squares: Float64[Tensor, "groups outputs"]

    @classmethod
    def empty(cls, groups: int, features: int, outputs: int) -> "NormalEquations":
        """Return sums over nothing."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64)

        return cls(
            gram=zeros(features + 1, features + 1),
            cross=zeros(features + 1, outputs),
            squares=zeros(outputs),
        )

    def add(self, rows: Tensor, residuals: Tensor) -> None:
        """Add rows (groups x rows x features) and their residuals (rows x all outputs)."""
        groups = len(rows)
        wide = F.pad(rows, (0, 1), value=1.0)
        parts = residuals.reshape(len(residuals), groups, -1).movedim(1, 0)
        self.gram += (wide.mT @ wide).double().cpu()
        self.cross += (wide.mT @ parts).double().cpu()
        self.squares += parts.double().square().sum(1).cpu()

    @property
    def count(self) -> float:
        """How many rows there were."""
        return float(self.gram[0, -1, -1])

    def solve(
        self, ridge: float, *, constant: bool = True
    ) -> Float64[Tensor, "groups features outputs"]:
        """Return the change of weights, with that of the constant as its last row.

        Args:
            constant: whether there is one to change; 0 otherwise.
        """
        power = self.gram.diagonal(dim1=1, dim2=2)[:, :-1].mean(1, keepdim=True)
        system = self.gram.clone()
        # A group that sees nothing but zeros changes nothing but its constant.
        system.diagonal(dim1=1, dim2=2)[:, :-1] += torch.where(power > 0, ridge * power, 1.0)
        if constant:
            change: Tensor = torch.linalg.solve(system, self.cross)
            return change
        change = torch.linalg.solve(system[:, :-1, :-1], self.cross[:, :-1])
        return F.pad(change, (0, 0, 0, 1))

    def squares_after(self, change: Tensor) -> Float64[Tensor, "groups outputs"]:
        """Return the sum of squared residuals of each output once the map is changed."""
        explained = 2 * (change * self.cross).sum(1) - (change * (self.gram @ change)).sum(1)
        return (self.squares - explained).clamp(min=0)

    def moments(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of what weights (groups x features x outputs) make of rows."""
        mean = self.gram[:, :-1, -1] / self.count
        second = self.gram[:, :-1, :-1] / self.count
        spread = second - mean[:, :, None] * mean[:, None, :]
        answer = (weights * mean[:, :, None]).sum(1)
        return answer, (weights * (spread @ weights)).sum(1).clamp(min=0)


def has_constant(network: nn.Module, linear: LinearMap) -> bool:
    """Whether a linear map has a constant: a bias, or that of its BatchNorm."""
    return linear.norm is not None or network.get_submodule(linear.layer).bias is not None


@torch.no_grad()
def change_map_(
    network: nn.Module, linear: LinearMap, change: Tensor, rows: NormalEquations
) -> None:
    """Add a change to a linear map; its BatchNorm gets the statistics of these rows.

    With A' = gamma / sigma A + D the layer's weights, mu' and sigma'^2 mean and variance of A' u:
    gamma' = sigma', beta' = mu' + constant, so that the map answers A' u + constant and a layer
    that trains on normalises as before.
    """
    layer = network.get_submodule(linear.layer)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weights, constant = _folded(network, linear)
    groups = len(change)
    outputs = width_of(layer)
    delta = change[:, :-1].mT.reshape(outputs, -1).reshape(weights.shape)
    weights, constant = weights + delta, constant + change[:, -1].reshape(outputs)
    layer.weight.copy_(weights)
    if linear.norm is None:
        if layer.bias is not None:
            layer.bias.copy_(constant)
        return
    norm = network.get_submodule(linear.norm)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    grouped = weights.reshape(groups, outputs // groups, -1).mT
    mean, variance = (x.reshape(outputs) for x in rows.moments(grouped))
    if layer.bias is not None:
        layer.bias.zero_()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(mean + constant)


def _folded(network: nn.Module, linear: LinearMap) -> tuple[Tensor, Tensor]:
    """Return weights and constant of a layer with its BatchNorm in one, in float64."""
    layer = network.get_submodule(linear.layer)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weights = layer.weight.double().cpu()
    constant = weights.new_zeros(len(weights)) if layer.bias is None else layer.bias.double().cpu()
    if linear.norm is None:
        return weights, constant
    norm = network.get_submodule(linear.norm)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.double().cpu(), norm.running_var.double().cpu()
    gain = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double().cpu()
    constant = (constant - mean) * gain
    if norm.bias is not None:
        constant = constant + norm.bias.double().cpu()
    return weights * gain.reshape(-1, *[1] * (weights.dim() - 1)), constant
