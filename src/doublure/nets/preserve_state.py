"""Calls of a network with gradients to its inputs, without a change of its state.

A network in training mode changes its BatchNorm statistics and draws dropout from torch's global
generator in every call. A generator that trains against the student must not change it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from doublure.nets.features import device_of


@contextmanager
def preserve_state(network: nn.Module, seed: int, *, evaluate: bool = False) -> Iterator[nn.Module]:
    """Yield `network` for calls; modes, buffers and the global random state are restored.

    With `torch.autograd.grad` on the inputs, `.grad` is unchanged, too.

    Args:
        seed: seed of its random layers.
        evaluate: whether to use eval mode inside; otherwise the mode is unchanged.
    """
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    device = device_of(network)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            yield network.eval() if evaluate else network
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for buffer, before in buffers:
                    # A write into an unchanged buffer would invalidate the graph needlessly.
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)
