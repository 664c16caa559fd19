"""Bias correction: each output channel of a quantized layer keeps its mean.

The channel moves by E[W x] - E[W_q x_q] over the calibration images (Nagel et al.,
arXiv:1906.04721, sec. 4.2): it is added to the layer's bias, or subtracted from the running mean of
the BatchNorm that follows. Channels lie along dimension 1 of what a convolution answers, along the
last one of what a linear layer or attention does, where dimensions between are tokens.

A forward pass corrects the layers in order: the input of each already has the corrections of those
before it. A layer that is called several times has one bias for all calls: it is corrected in a
pass of its own, by the mean error over its calls.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.compress.layer_calls import following_norms, watching_outputs
from doublure.nets.network import Network

_ALONG_LAST = (nn.Linear, nn.MultiheadAttention)


def channel_means(layer: nn.Module, output: Tensor) -> Float[Tensor, " channels"]:
    """Return the mean of each channel of a layer's output over all else."""
    axis = -1 if isinstance(layer, _ALONG_LAST) else 1
    return output.movedim(axis, 0).flatten(1).mean(1)


@torch.no_grad()
def correct_bias_(
    network: Network, quantized: Network, names: Sequence[str], images: Tensor
) -> None:
    """Move the output channels of each layer of `quantized` to their means in `network`.

    Args:
        names: the layers, in the order in which they are called.
    """
    wanted = _means_by_call(network, names, images)
    once = [name for name in names if len(wanted[name]) == 1]
    norms = following_norms(quantized, names, images[:1])
    layers = {name: quantized.body.get_submodule(name) for name in names}

    def correct(name: str, output: Tensor) -> Tensor | None:
        error = wanted[name][0] - channel_means(layers[name], output)
        if name in norms:
            # The BatchNorm subtracts its running mean: a lower mean raises its output.
            norms[name][0].running_mean.sub_(error)  # type: ignore[union-attr]  # it has statistics
            return None
        return output + _along(layers[name], error, output) if _add(layers[name], error) else None

    with watching_outputs(quantized, once, correct):
        quantized(images)
    for name in names:
        if name in once:
            continue
        got = _means_by_call(quantized, [name], images)[name]
        error = torch.stack(wanted[name]).mean(0) - torch.stack(got).mean(0)
        followers = list({id(norm): norm for norm in norms.get(name, [])}.values())
        if not _add(layers[name], error) and len(followers) == 1:
            followers[0].running_mean.sub_(error)  # type: ignore[union-attr]  # it has statistics


def _means_by_call(
    network: Network, names: Sequence[str], images: Tensor
) -> dict[str, list[Tensor]]:
    means: dict[str, list[Tensor]] = {name: [] for name in names}

    def note(name: str, output: Tensor) -> None:
        means[name].append(channel_means(network.body.get_submodule(name), output))

    with watching_outputs(network, names, note):
        network(images)
    return means


def _add(layer: nn.Module, error: Tensor) -> bool:
    """Add to a layer's bias; return whether it has one."""
    holder = layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer
    bias = holder._parameters.get("bias")
    if bias is None:
        return False
    bias.add_(error)
    return True


def _along(layer: nn.Module, error: Tensor, output: Tensor) -> Tensor:
    """Return the error of each channel in the shape that is added to an output."""
    if isinstance(layer, _ALONG_LAST):
        return error
    return error.view(1, -1, *[1] * (output.dim() - 2))
