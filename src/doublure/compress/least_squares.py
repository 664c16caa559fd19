"""Least squares for a linear map of a network: the change of it that explains a residual best.

Of a layer with weights A and rows u of inputs (for a convolution the patch behind each place of
its answer), the change (D, e) of weights and constant that a residual r is explained by is

    argmin  sum |u D + e - r|^2 + ridge tr(U'U) / d |D|^2

over all rows: one system of d + 1 equations for each group of the layer, in float64. At D = 0
nothing is changed, so that the sum of squares never grows, and a residual of zero changes nothing.

Behind a ReLU an answer z below zero is as good as any other below zero. Where the wanted answer t
is not positive only max(z, 0) counts, as in Zhang, Zou, He, Sun (arXiv:1505.06798, section 3.2):

    sum over t > 0 of (z - t)^2  +  sum over t <= 0 of max(z, 0)^2

is convex in the change. Each round wants min(z, 0) of the z at hand where t <= 0 and solves again;
that quadratic lies above the sum and touches it, so that the sum never grows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from doublure.nets.linear_maps import LinearMap, width_of
from doublure.nets.readouts import Places


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What a map sees at some places, what it answers there, and what it should.

    Args:
        seen: by group of the layer.
    """

    seen: Float[Tensor, "groups rows features"]
    answered: Float[Tensor, "rows outputs"]
    wanted: Float[Tensor, "rows outputs"]

    @property
    def wide(self) -> Float[Tensor, "groups rows unknowns"]:
        """What it sees, and a constant 1."""
        return F.pad(self.seen, (0, 1), value=1.0)

    def changed(self, change: Tensor) -> Float[Tensor, "rows outputs"]:
        """Return what the map answers once it is changed."""
        return self.answered + (self.wide @ change.to(self.seen)).movedim(0, 1).flatten(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """A change of a map, with that of the constant as its last row, and what it is worth.

    Args:
        before: squared error that counts, without the change.
        after: the same with it.
        varies: sum of squared distances of what is wanted from its mean.
        mean: of what the map's layer is to answer before its BatchNorm, by feature it sees.
        spread: covariance of the features.
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
    """Return the change of a map that brings its answers nearest those wanted.

    Args:
        parts: rows, slice by slice.
        ridge: as a share of the mean square of what the map sees.
        constant: whether there is one to change; 0 otherwise.
        rounds: of the sum for a map behind a ReLU; 0 for a map that is not.
    """
    gram = _summed(parts, lambda part: part.wide)
    count, features = gram[0, -1, -1], gram.shape[1] - 1
    power = gram.diagonal(dim1=1, dim2=2)[:, :-1].mean(1, keepdim=True)
    system = gram.clone()
    # A group that sees nothing but zeros changes nothing but its constant.
    system.diagonal(dim1=1, dim2=2)[:, :-1] += torch.where(power > 0, ridge * power, 1.0)
    known = features + int(constant)
    factors = torch.linalg.lu_factor(system[:, :known, :known])
    change = gram.new_zeros(len(gram), features + 1, parts[0].wanted.shape[1] // len(gram))
    before = _error(parts, change, rectified=rounds > 0)
    for _ in range(max(1, rounds)):
        now = change

        def residual(part: Rows, now: Tensor = now) -> Tensor:
            wanted = part.wanted
            if rounds:
                wanted = torch.where(wanted > 0, wanted, part.changed(now).clamp(max=0))
            return _by_group(wanted - part.answered, len(gram))

        cross = _summed(parts, residual)
        solved = torch.linalg.lu_solve(*factors, cross[:, :known])
        change = F.pad(solved, (0, 0, 0, features + 1 - known))
    mean = gram[:, :-1, -1] / count
    return Solution(
        change=change,
        before=before,
        after=_error(parts, change, rectified=rounds > 0),
        varies=_variation(torch.cat([part.wanted for part in parts]), rectified=rounds > 0),
        mean=mean,
        spread=gram[:, :-1, :-1] / count - mean[:, :, None] * mean[:, None, :],
    )


def _summed(parts: Sequence[Rows], right: Callable[[Rows], Tensor]) -> Tensor:
    """Return the products with what a map sees, summed slice by slice in float64."""
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
        off = part.changed(change) - part.wanted
        if rectified:
            off = torch.where(part.wanted > 0, off, part.changed(change).clamp(min=0))
        total += float(off.double().square().sum())
    return total


def _variation(wanted: Tensor, *, rectified: bool) -> float:
    """Return the sum of squared distances from the mean, of what passes where a ReLU follows."""
    wide = wanted.double().clamp(min=0) if rectified else wanted.double()
    return max(float((wide - wide.mean(0)).square().sum()), torch.finfo(torch.float64).tiny)


@torch.no_grad()
def change_map_(network: nn.Module, linear: LinearMap, solution: Solution) -> None:
    """Add a change to a linear map; its BatchNorm gets the statistics of the rows it was solved on.

    With A' = gamma / sigma A + D the layer's weights, mu' and sigma'^2 mean and variance of A' u:
    gamma' = sigma', beta' = mu' + constant, so that the map answers A' u + constant and a layer
    that trains on normalises as before.
    """
    layer = network.get_submodule(linear.layer)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weights, constant = _folded(network, linear)
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


def _folded(network: nn.Module, linear: LinearMap) -> tuple[Tensor, Tensor]:
    """Return weights and constant of a layer with its BatchNorm in one, in float64."""
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
