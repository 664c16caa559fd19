"""Channels-last memory format, in which convolutions are faster on CPUs and tensor cores."""

import torch
from torch import nn

from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze


def to_channels_last_(network: nn.Module) -> bool:
    """Convert a network to channels last if it can be called in that format; return whether it can.

    `x.view(len(x), -1)` of a feature map, as in LeNet, needs the default format. The format changes
    values by rounding only.
    """
    able = _answers_channels_last(network)
    if able:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    if isinstance(network, Network):
        network.channels_last = able
    return able


def to_channels_first_(network: nn.Module) -> None:
    """Convert a network to the default format, that of files and other networks."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub
    if isinstance(network, Network):
        network.channels_last = False


def _answers_channels_last(network: nn.Module) -> bool:
    if not isinstance(network, Network):
        return True
    # A copy: for weights of one channel both formats are contiguous, so torch would not convert
    # them.
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
