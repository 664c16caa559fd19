"""Folding: BatchNorm in eval mode, merged into the convolution or linear layer before it.

In eval mode BatchNorm is an affine map of each channel, y = s (x - m) + b, s = w / sqrt(v + eps),
with weight w, bias b and stored statistics m and v. After a layer x = W u + c it equals that layer
with other weights,
    W' = s W,    c' = s (c - m) + b,
which saves a forward and a backward pass over all values. The layer's output is then that of
BatchNorm, and an identity replaces BatchNorm, so that its path in the network still names that
output.

The autograd graph of one call shows which layers are followed by BatchNorm only. A BatchNorm is not
folded if its output is overwritten in place, or if its input is a requested feature. In-place
activations become out-of-place ones in the folded network, so that layer outputs are still
available in the backward pass.

Divergences of Gaussians are invariant under an affine map, so statistics of a BatchNorm's input can
also be compared at its output (`behind`).
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

# Layers that are linear in weight and bias, with output channels in dimension 0.
_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Tolerance of the folded network's output in float32, as a share of the largest value.
_TOLERANCE = 1e-4
# Relative rounding error of a mean in bfloat16.
_FLATTEST = 2.0**-8
# Errors of a forward pass that uses more of a BatchNorm than its output.
_REFUSALS = (AttributeError, RuntimeError, TypeError)


class Affine(NamedTuple):
    """BatchNorm in eval mode: y = scale (x - mean) + bias of each channel."""

    scale: Tensor
    mean: Tensor
    bias: Tensor


class Folded(NamedTuple):
    """A network with BatchNorm folded.

    Args:
        network: a copy in eval mode; the given network if nothing was folded.
        layers: each folded BatchNorm as an affine map, by dotted path of the architecture.
        reason: why nothing was folded; "" otherwise.
    """

    network: nn.Module
    layers: Mapping[str, Affine]
    reason: str = ""


def affine_of(layer: _BatchNorm) -> Affine:
    """Return the affine map of a BatchNorm with stored statistics in eval mode."""
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
    """Return the folded network, and the target statistics at the folded BatchNorm layers.

    By dotted path of the architecture. A BatchNorm is not folded if one of its channels varies so
    little around its bias that bfloat16 would round the variation away.
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
    """Return the statistics of a BatchNorm's output from those of its input.

    The eps added to variances is mapped with them, so that divergences are unchanged.
    """
    squared = norm.scale.square()
    mean = norm.scale * (stored.mean - norm.mean) + norm.bias
    return Stored(mean, squared * stored.variance, squared * stored.eps)


def fold_batchnorm(
    network: nn.Module, contract: InputContract, features: Collection[str] = ()
) -> Folded:
    """Return the network in eval mode with as many BatchNorm layers folded as possible.

    Args:
        contract: input contract for the example call that finds the order of layers.
        features: layers whose output (or input, with ":input") must not change, by dotted path of
            the architecture as in `FeatureRecorder`. The output of a BatchNorm never changes.
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
        return Folded(network, {}, "no convolution or linear layer is followed by BatchNorm only")
    try:
        apart = _distance(folded, given, images)
    except _REFUSALS as error:
        return Folded(
            network, {}, f"its forward pass uses more of BatchNorm than its output ({error})"
        )
    if not apart <= _TOLERANCE:
        return Folded(
            network, {}, f"folded, its outputs would differ by {apart:.1g} of the largest"
        )
    device = device_of(network)
    at_device = {n: Affine(*(part.to(device) for part in layer)) for n, layer in layers.items()}
    return Folded(folded.to(device), at_device)


def _pairs(network: nn.Module, images: Tensor, features: Collection[str]) -> dict[str, str]:
    """Return, for each BatchNorm that alone follows a layer, the path of that layer."""
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
        # For tokens, the channel dimensions of a linear layer and of BatchNorm differ.
        if not isinstance(layers[before], nn.Linear) or call.entered.dim() == 2:
            pairs[name] = before
    return pairs


def _is_affine(layer: nn.Module) -> bool:
    """Return whether a layer is a plain BatchNorm with statistics."""
    if not isinstance(layer, _BatchNorm) or layer.running_mean is None:
        return False
    return type(layer).forward is _BatchNorm.forward


def _is_linear(layer: nn.Module) -> bool:
    """Return whether a layer is linear in its own weight, without parametrisation."""
    plain = isinstance(layer, _LINEAR) and any(type(layer).forward is k.forward for k in _LINEAR)
    return plain and "weight" in dict(layer.named_parameters(recurse=False))


def _take_in(layer: nn.Module, norm: Affine) -> None:
    """Merge the BatchNorm after a linear layer into it."""
    assert isinstance(layer, _LINEAR)
    weight = layer.weight.detach()
    bias = torch.zeros_like(norm.bias) if layer.bias is None else layer.bias.detach()
    scale = norm.scale.view(-1, *[1] * (weight.dim() - 1))
    layer.weight = nn.Parameter(scale * weight, requires_grad=False)
    bias = norm.scale * (bias - norm.mean) + norm.bias
    layer.bias = nn.Parameter(bias, requires_grad=False)


@torch.no_grad()
def _distance(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Return the largest difference of two networks' outputs, as a share of the largest output."""
    pairs = [*zip(_tensors(one(images)), _tensors(other(images)), strict=True)]
    apart = max((ours - theirs).abs().max().item() for ours, theirs in pairs)
    return apart / max(theirs.abs().max().item() for _, theirs in pairs)


class _Call:
    """Input and output of a module in one call."""

    def __init__(self, entered: Any, left: Any) -> None:
        self.entered, self.left = entered, left
        self._version = getattr(left, "_version", 0)

    @property
    def overwritten(self) -> bool:
        """Whether the output was overwritten."""
        return bool(self.left._version != self._version)


class _Calls:
    """Records the calls of some modules; a context manager that removes its hooks."""

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
        """Yield the modules that were called once, with their calls."""
        for name in names:
            if len(self.made[name]) == 1:
                yield name, self.made[name][0]

    def _keeper(self, name: str) -> Any:
        def keep(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.made[name].append(_Call(inputs[0] if inputs else None, output))

        return keep


def _operation(value: Any) -> Any:
    """Return the autograd operation that produced a value; None if it is not a tensor."""
    return value.grad_fn if isinstance(value, Tensor) else None


def _uses(output: Any) -> Counter[Any]:
    """Return the number of uses of each operation's result in the autograd graph."""
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
    """Yield the tensors of an output: one, or those in dicts and sequences."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
