"""Asking a network with gradients to its inputs, and giving it back as it was.

A network in training mode changes its BatchNorm statistics and draws dropout from torch's global
generator whenever it is asked. Whoever only borrows it, as a generator does that plays against the
student, must leave no trace.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from doublure.nets.features import device_of


@contextmanager
def preserve_state(network: nn.Module, seed: int, *, evaluate: bool = False) -> Iterator[nn.Module]:
    """Yield `network` to be asked; modes, buffers and global random state come back unchanged.

    Ask it for gradients of its inputs by `torch.autograd.grad` and `.grad` stays unchanged, too.

    Args:
        seed: what its random layers draw from.
        evaluate: put it in eval mode meanwhile; otherwise it stays in the mode it is in.
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
                    # Writing into one that did not change would spoil the graph for nothing.
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)
