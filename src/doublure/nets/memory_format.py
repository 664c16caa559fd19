"""Channels-last memory order: convolutions on a CPU and on tensor cores are faster in it."""

import torch
from torch import nn

from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze


def to_channels_last_(network: nn.Module) -> bool:
    """Lay out a network channels last where it can be called so, and return whether it can.

    `x.view(len(x), -1)` of a map of features, as in many a LeNet, asks for the usual order. Which
    one it is changes no value beyond its last bits.
    """
    able = _answers_channels_last(network)
    if able:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    if isinstance(network, Network):
        network.channels_last = able
    return able


def to_channels_first_(network: nn.Module) -> None:
    """Lay out a network in the usual order, the one that files and other networks have."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub
    if isinstance(network, Network):
        network.channels_last = False


def _answers_channels_last(network: nn.Module) -> bool:
    if not isinstance(network, Network):
        return True
    # A copy: weights of one channel would not come back from an order that they have both of.
    trial = freeze(network)
    trial.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    assert isinstance(trial, Network)
    trial.channels_last = True
    try:
        with torch.no_grad():
            trial(network.contract.blank(2, device_of(network)))
    except RuntimeError:
        return False
    return True
