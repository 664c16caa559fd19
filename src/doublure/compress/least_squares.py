"""Least squares for a linear map of a network: the change of its weights that best fits a residual.

A layer has weights A and rows u of inputs; for a convolution u is the input patch of one output
position. The change (D, e) of weights and constant that fits a residual r best is

    argmin  sum |u D + e - r|^2 + ridge tr(U'U) / d |D|^2

over all rows: one system of d + 1 equations for each group of the layer, in float64. D = 0 is
feasible, so that the sum of squares never increases, and a residual of zero gives no change.

Before a ReLU all negative outputs z are equivalent. Where the target t is not positive, only
max(z, 0) counts, as in Zhang, Zou, He, Sun (arXiv:1505.06798, section 3.2):

    sum over t > 0 of (z - t)^2  +  sum over t <= 0 of max(z, 0)^2

is convex in the change. Each round replaces the target by min(z, 0) of the current z where t <= 0,
and solves again. That quadratic is an upper bound of the sum, equal to it at the current z, so that
the sum never increases (majorise-minimise).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from doublure.nets.linear_maps import LinearMap, width_of
from doublure.nets.readouts import Places


def input_rows(layer: nn.Module, inputs: Tensor, places: Places) -> Tensor:
    """Return the layer's input at these output positions, groups x rows x features."""
    if not isinstance(layer, nn.Conv2d):
        return inputs[places][None]
    batch, y, x = places
    padding = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, padding, mode=mode) if any(padding) else inputs
    (height, width), (down, right) = layer.kernel_size, layer.stride
    # The rows and columns of the padded input under the kernel, for each position.
    rows = (y * down)[:, None, None] + layer.dilation[0] * torch.arange(height).to(y)[:, None]
    columns = (x * right)[:, None, None] + layer.dilation[1] * torch.arange(width).to(x)
    # rows x height x width x channels -> groups x rows x (channels of a group, height, width)
    patches = padded[batch[:, None, None], :, rows, columns].movedim(-1, 1)
    grouped = patches.reshape(len(batch), layer.groups, -1)
    return grouped.movedim(1, 0)


def draw_places(shape: tuple[int, ...], count: int, rng: torch.Generator) -> Places:
    """Return random indices into all dimensions of an output except its channels.

    Args:
        count: number of positions; all of them if the output has no more.
    """
    grid = (shape[0], *shape[2:]) if len(shape) == 4 else shape[:-1]
    total = int(torch.tensor(grid).prod())
    drawn = torch.randperm(total, generator=rng)[:count] if count < total else torch.arange(total)
    return tuple(torch.unravel_index(drawn, grid))


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Inputs, outputs and targets of a linear map at some positions.

    Args:
        inputs: for each group of the layer.
    """

    inputs: Float[Tensor, "groups rows features"]
    outputs: Float[Tensor, "rows outputs"]
    targets: Float[Tensor, "rows outputs"]

    @property
    def wide(self) -> Float[Tensor, "groups rows unknowns"]:
        """The inputs, and a constant 1 for the bias."""
        return F.pad(self.inputs, (0, 1), value=1.0)

    def outputs_after(self, change: Tensor) -> Float[Tensor, "rows outputs"]:
        """Return the outputs of the map with this change."""
        return self.outputs + (self.wide @ change.to(self.inputs)).movedim(0, 1).flatten(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """A change of a map, with the change of the constant as its last row, and its errors.

    Args:
        before: squared error without the change.
        after: squared error with the change.
        varies: sum of squared distances of the targets from their mean.
        mean: mean of each input feature.
        spread: covariance of the input features.
    """

    change: Float64[Tensor, "groups unknowns outputs"]
    before: float
    after: float
    varies: float
    mean: Float64[Tensor, "groups features"]
    spread: Float64[Tensor, "groups features features"]


@torch.no_grad()
def solve(
    parts: Sequence[Rows], ridge: float, *, constant: bool = True, rounds: int = 0
) -> Solution:
    """Return the change of a map that minimises the squared error of its outputs.

    Args:
        parts: rows, one element per slice of images.
        ridge: relative to the mean square of the inputs.
        constant: whether the map has a constant to change; otherwise its change is 0.
        rounds: number of solves for a map that a ReLU follows; 0 for other maps.
    """
    gram = _sum_products(parts, lambda part: part.wide)
    count, features = gram[0, -1, -1], gram.shape[1] - 1
    power = gram.diagonal(dim1=1, dim2=2)[:, :-1].mean(1, keepdim=True)
    system = gram.clone()
    # If all inputs of a group are zero, only its constant can change: 1 keeps the system regular.
    system.diagonal(dim1=1, dim2=2)[:, :-1] += torch.where(power > 0, ridge * power, 1.0)
    known = features + int(constant)
    # The matrix is the same in all rounds: it is factorised once.
    factors = torch.linalg.lu_factor(system[:, :known, :known])
    change = gram.new_zeros(len(gram), features + 1, parts[0].targets.shape[1] // len(gram))
    before = _error(parts, change, rectified=rounds > 0)
    for _ in range(max(1, rounds)):
        now = change

        def residual(part: Rows, now: Tensor = now) -> Tensor:
            targets = part.targets
            if rounds:
                # Where the target is not positive, any negative output is right: take the current.
                targets = torch.where(targets > 0, targets, part.outputs_after(now).clamp(max=0))
            return _by_group(targets - part.outputs, len(gram))

        cross = _sum_products(parts, residual)
        solved = torch.linalg.lu_solve(*factors, cross[:, :known])
        change = F.pad(solved, (0, 0, 0, features + 1 - known))
    mean = gram[:, :-1, -1] / count
    return Solution(
        change=change,
        before=before,
        after=_error(parts, change, rectified=rounds > 0),
        varies=_variation(torch.cat([part.targets for part in parts]), rectified=rounds > 0),
        mean=mean,
        spread=gram[:, :-1, :-1] / count - mean[:, :, None] * mean[:, None, :],
    )


def _sum_products(parts: Sequence[Rows], right: Callable[[Rows], Tensor]) -> Tensor:
    """Return the products with the map's inputs, summed over slices in float64."""
    total: Tensor | None = None
    for part in parts:
        product = (part.wide.mT @ right(part)).double()
        total = product if total is None else total + product
    assert total is not None
    return total


def _by_group(values: Tensor, groups: int) -> Tensor:
    return values.reshape(len(values), groups, -1).movedim(1, 0)


def _error(parts: Sequence[Rows], change: Tensor, *, rectified: bool) -> float:
    total = 0.0
    for part in parts:
        outputs = part.outputs_after(change)
        error = outputs - part.targets
        if rectified:
            error = torch.where(part.targets > 0, error, outputs.clamp(min=0))
        total += float(error.double().square().sum())
    return total


def _variation(targets: Tensor, *, rectified: bool) -> float:
    """Return the sum of squared distances from the mean; of the positive part before a ReLU."""
    values = targets.double().clamp(min=0) if rectified else targets.double()
    return max(float((values - values.mean(0)).square().sum()), torch.finfo(torch.float64).tiny)


@torch.no_grad()
def change_map_(network: nn.Module, linear: LinearMap, solution: Solution) -> None:
    """Add a change to a linear map; its BatchNorm gets the statistics of the solved rows.

    The layer's weights become A' = gamma / sigma A + D, with mu' and sigma'^2 the mean and variance
    of A' u. With gamma' = sigma' and beta' = mu' + constant the map computes A' u + constant, and
    its BatchNorm still normalises with the right statistics when training continues.
    """
    layer = network.get_submodule(linear.layer)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weights, constant = _fold_norm(network, linear)
    change = solution.change.to(weights)
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
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # Mean A' E[u] and variance A' Cov[u] A'^T of the new outputs, for each group.
    grouped = weights.reshape(len(change), outputs // len(change), -1).mT
    mean = (grouped * solution.mean.to(weights)[:, :, None]).sum(1).reshape(outputs)
    spread = solution.spread.to(weights) @ grouped
    variance = (grouped * spread).sum(1).clamp(min=0).reshape(outputs)
    if layer.bias is not None:
        layer.bias.zero_()
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(mean + constant)


def _fold_norm(network: nn.Module, linear: LinearMap) -> tuple[Tensor, Tensor]:
    """Return weights and constant of a layer with its BatchNorm folded in, in float64."""
    layer = network.get_submodule(linear.layer)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weights = layer.weight.double()
    constant = weights.new_zeros(len(weights)) if layer.bias is None else layer.bias.double()
    if linear.norm is None:
        return weights, constant
    norm = network.get_submodule(linear.norm)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    constant = (constant - norm.running_mean.double()) * gain + norm.bias.double()
    return weights * gain.reshape(-1, *[1] * (weights.dim() - 1)), constant
