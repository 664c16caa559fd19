"""Folding: BatchNorm in eval mode made part of the convolution or linear layer before it.

In eval mode BatchNorm is an affine map of each channel, y = s (x - m) + b, s = w / sqrt(v + eps),
of its weight w, bias b and stored statistics m and v. Behind a layer x = W u + c it is that layer
with other weights,
    W' = s W,    c' = s (c - m) + b,
so that a pass over all values is saved, forth and back. The layer's output is then what BatchNorm's
was, and an identity stands in BatchNorm's place: its path in the network still names that output.

Which BatchNorm follows a layer, and nothing else does, is read off the graph that autograd records
of one call. A BatchNorm stays where its output is overwritten in place, or where what enters it is
looked at. Activations in place act out of place in the folded network, so that what a layer
answered is still there when gradients come back.

Divergences of Gaussians do not change under an affine map, so statistics of what enters a BatchNorm
can be compared behind it as well (`behind`).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from doublure.core.checks import one_of
from doublure.core.protocols import InputContract
from doublure.core.seeding import from_seed
from doublure.nets.batchnorm_statistics import Stored, batchnorm_layers, stored_statistics
from doublure.nets.features import INPUT, architecture, device_of
from doublure.nets.network import freeze

# Their output is linear in weight and bias, in both of which channels lie along dimension 0.
_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Of the largest answer: how far the folded network's may be from it, in float32.
_TOLERANCE = 1e-4
# Of a mean: a bfloat16 of that size is rounded by as much, or half of it.
_FLATTEST = 2.0**-8
# What a forward runs into that asks a BatchNorm for more than its output.
_REFUSALS = (AttributeError, RuntimeError, TypeError)


class Affine(NamedTuple):
    """BatchNorm in eval mode: y = scale (x - mean) + bias of each channel."""

    scale: Tensor
    mean: Tensor
    bias: Tensor


class Folded(NamedTuple):
    """A network with BatchNorm folded.

    Args:
        network: a copy in eval mode; the one given where nothing was folded.
        layers: what each BatchNorm folded was, by dotted path of the architecture.
        reason: why nothing was folded; "" where something was.
    """

    network: nn.Module
    layers: Mapping[str, Affine]
    reason: str = ""


def affine_of(layer: _BatchNorm) -> Affine:
    """Return the map that a BatchNorm with stored statistics is in eval mode."""
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    scale = (variance + layer.eps).rsqrt()
    if not layer.affine:
        return Affine(scale, mean, torch.zeros_like(scale))
    return Affine(scale * layer.weight.detach(), mean, layer.bias.detach())


def fold_with_statistics(
    network: nn.Module, contract: InputContract
) -> tuple[nn.Module, dict[str, Stored]]:
    """Return the network folded, and the statistics that are to enter BatchNorm's places in it.

    By dotted path of the architecture. A BatchNorm stays where one of its channels varies so little
    around its bias that, rounded to eight bits, nothing of it would be left behind.
    """
    body = architecture(network)
    stored, norms = stored_statistics(body), batchnorm_layers(body)
    flat = []
    for name, known in stored.items():
        left = behind(known, affine_of(norms[name]))
        seen = left.variance.sqrt() > _FLATTEST * left.mean.abs()
        flat += [] if seen.all() else [name + INPUT]
    folded = fold_batchnorm(network, contract, flat)
    for name, norm in folded.layers.items():
        stored[name] = behind(stored[name], norm)
    return folded.network, stored


def behind(stored: Stored, norm: Affine) -> Stored:
    """Return the statistics of what leaves a BatchNorm, of those of what enters it.

    What was added to variances is mapped with them, so that divergences stay the same.
    """
    squared = norm.scale.square()
    mean = norm.scale * (stored.mean - norm.mean) + norm.bias
    return Stored(mean, squared * stored.variance, squared * stored.eps)


def fold_batchnorm(
    network: nn.Module, contract: InputContract, features: Collection[str] = ()
) -> Folded:
    """Return the network in eval mode with each BatchNorm folded that can be.

    Args:
        contract: of the images it is called with, to see what follows what.
        features: layers whose output, or behind ":input" whose input, must stay what it is, by
            dotted path of the architecture as in `FeatureRecorder`. A BatchNorm's output stays in
            any case.
    """
    given, folded = (freeze(network).to("cpu") for _ in range(2))
    images = torch.rand(2, contract.channels, *contract.size, generator=from_seed(0))
    body = architecture(folded)
    for module in body.modules():
        if getattr(module, "inplace", False) is True:
            vars(module)["inplace"] = False
    layers = {}
    for name, before in _pairs(folded, images, features).items():
        norm, linear = body.get_submodule(name), body.get_submodule(before)
        assert isinstance(norm, _BatchNorm)
        layers[name] = affine_of(norm)
        _take_in(linear, layers[name])
        parent, _, leaf = name.rpartition(".")
        setattr(body.get_submodule(parent), leaf, nn.Identity())
    if not layers:
        return Folded(network, {}, "no BatchNorm alone follows a convolution or a linear layer")
    try:
        apart = _distance(folded, given, images)
    except _REFUSALS as error:
        return Folded(network, {}, f"its forward asks more of BatchNorm than its output ({error})")
    if not apart <= _TOLERANCE:
        return Folded(
            network, {}, f"folded, its answers would differ by {apart:.1g} of the largest"
        )
    device = device_of(network)
    at_device = {n: Affine(*(part.to(device) for part in layer)) for n, layer in layers.items()}
    return Folded(folded.to(device), at_device)


def _pairs(network: nn.Module, images: Tensor, features: Collection[str]) -> dict[str, str]:
    """Return for each BatchNorm that alone follows a layer the path of that layer."""
    layers = dict(architecture(network).named_modules())
    norms = [name for name, layer in layers.items() if _is_affine(layer)]
    linear = [name for name, layer in layers.items() if _is_linear(layer)]
    looked_at = {tap: one_of("layer to tap", tap.removesuffix(INPUT), layers) for tap in features}
    watched = {name: layers[name] for name in (*norms, *linear, *looked_at.values())}
    with _Calls(watched) as calls, torch.enable_grad():
        output = network(images.clone().requires_grad_())
    uses = _uses(output)
    kept = {
        _operation(call.entered if tap.endswith(INPUT) else call.left)
        for tap, name in looked_at.items()
        for call in calls.made[name]
    }
    writers = {_operation(call.left): name for name, call in calls.single(linear)}
    pairs = {}
    for name, call in calls.single(norms):
        operation = _operation(call.entered)
        before = writers.get(operation)
        if before is None or operation in kept or uses[operation] > 1 or call.overwritten:
            continue
        # Of tokens, a linear layer's channels are not those of the BatchNorm behind it.
        if not isinstance(layers[before], nn.Linear) or call.entered.dim() == 2:
            pairs[name] = before
    return pairs


def _is_affine(layer: nn.Module) -> bool:
    """Return whether a layer is BatchNorm with statistics, and nothing besides."""
    if not isinstance(layer, _BatchNorm) or layer.running_mean is None:
        return False
    return type(layer).forward is _BatchNorm.forward


def _is_linear(layer: nn.Module) -> bool:
    """Return whether a layer is plainly linear in a weight of its own, which nothing computes."""
    plain = isinstance(layer, _LINEAR) and any(type(layer).forward is k.forward for k in _LINEAR)
    return plain and "weight" in dict(layer.named_parameters(recurse=False))


def _take_in(layer: nn.Module, norm: Affine) -> None:
    """Make a linear layer answer what the BatchNorm behind it does."""
    assert isinstance(layer, _LINEAR)
    weight = layer.weight.detach()
    bias = torch.zeros_like(norm.bias) if layer.bias is None else layer.bias.detach()
    scale = norm.scale.view(-1, *[1] * (weight.dim() - 1))
    layer.weight = nn.Parameter(scale * weight, requires_grad=False)
    bias = norm.scale * (bias - norm.mean) + norm.bias
    layer.bias = nn.Parameter(bias, requires_grad=False)


@torch.no_grad()
def _distance(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Return how far two networks' answers are apart, as a share of the largest."""
    pairs = [*zip(_tensors(one(images)), _tensors(other(images)), strict=True)]
    apart = max((ours - theirs).abs().max().item() for ours, theirs in pairs)
    return apart / max(theirs.abs().max().item() for _, theirs in pairs)


class _Call:
    """What entered and what left a module in one call."""

    def __init__(self, entered: Any, left: Any) -> None:
        self.entered, self.left = entered, left
        self._version = getattr(left, "_version", 0)

    @property
    def overwritten(self) -> bool:
        """Whether anything has written into what left it."""
        return bool(self.left._version != self._version)


class _Calls:
    """Remembers the calls of some modules; use as a context manager, and no hook stays behind."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.made: dict[str, list[_Call]] = {name: [] for name in layers}
        self._layers = layers
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "_Calls":
        for name, layer in self._layers.items():
            self._handles.append(layer.register_forward_hook(self._keeper(name)))
        return self

    def __exit__(self, *exception: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def single(self, names: Iterable[str]) -> Iterator[tuple[str, _Call]]:
        """Yield those of the modules that were called once, each with its call."""
        for name in names:
            if len(self.made[name]) == 1:
                yield name, self.made[name][0]

    def _keeper(self, name: str) -> Any:
        def keep(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.made[name].append(_Call(inputs[0] if inputs else None, output))

        return keep


def _operation(value: Any) -> Any:
    """Return the operation in autograd's graph that made a value; None of what is no tensor."""
    return value.grad_fn if isinstance(value, Tensor) else None


def _uses(output: Any) -> Counter[Any]:
    """Return how often the result of each operation in autograd's graph is used."""
    waiting = [tensor.grad_fn for tensor in _tensors(output) if tensor.grad_fn is not None]
    uses = Counter(waiting)
    seen = set(waiting)
    while waiting:
        for operation, _ in waiting.pop().next_functions:
            if operation is None:
                continue
            uses[operation] += 1
            if operation not in seen:
                seen.add(operation)
                waiting.append(operation)
    return uses


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of an answer: one, or those of tables and rows."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
