"""A network together with the input contract it was trained for.

`Network` takes images in [0, 1] and normalises them itself, so nothing else here ever
does; tokens it hands on as they are. Its `body` is the plain architecture: `body.state_dict()` is
what a checkpoint holds.
"""

import copy
from typing import Any, Generic

import torch
from torch import Tensor, nn

from doublure.core.protocols import AnyContract, Input


class Network(nn.Module, Generic[AnyContract]):
    """An architecture that takes images in [0, 1], NCHW; mean and std belong to it.

    `Network` alone is one of images; a `Network[TextContract]` takes tokens.

    Args:
        body: the architecture; its state_dict keys are the checkpoint's.
        contract: what it takes and what its outputs stand for; each task has its own.
        reference: the REF it was made from, "" where it was made in Python.
        plan: what was done to that architecture since (pruned, quantized), as records.
    """

    mean: Tensor
    std: Tensor
    # In which memory order the architecture is shown its images; see `memory_order`.
    channels_last = False

    def __init__(
        self,
        body: nn.Module,
        contract: AnyContract,
        reference: str = "",
        plan: tuple[dict[str, Any], ...] = (),
    ) -> None:
        super().__init__()
        self.body = body
        self.contract = contract
        self.reference = reference
        self.plan = plan
        self._of_images = contract.normalisation is not None
        if contract.normalisation is not None:
            mean, std = (
                torch.tensor(values).view(1, -1, 1, 1) for values in contract.normalisation
            )
            self.register_buffer("mean", mean, persistent=False)
            self.register_buffer("std", std, persistent=False)

    def forward(self, inputs: Input) -> Any:
        if isinstance(inputs, Tensor) and self._of_images:
            inputs = self.shown(inputs)
        return self.body(inputs)

    def shown(self, images: Tensor) -> Tensor:
        """Return what the architecture is shown of images in [0, 1]."""
        return self._in_order((images - self.mean) / self.std)

    def _in_order(self, images: Tensor) -> Tensor:
        """Return the images in the order in memory that the architecture takes."""
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        height, width = images.shape[2:]
        # By the strides: of one channel, both orders count as contiguous.
        if images.stride()[1:] == (height * width, width, 1):
            return images
        return images.clone(memory_format=torch.contiguous_format)


def freeze(network: nn.Module) -> nn.Module:
    """Return `network` in eval mode without parameter gradients; the original keeps its own.

    Weights and buffers are shared, not copied; gradients still reach the inputs.
    """
    memo: dict[int, Any] = {id(buffer): buffer for buffer in network.buffers()}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(network, memo).eval()


def count_parameters(network: nn.Module) -> int:
    """Return how many numbers the network's parameters hold."""
    return sum(parameter.numel() for parameter in network.parameters())


def other_precisions(network: nn.Module) -> str:
    """Return in what precisions but float32 a network holds numbers, or nothing."""
    held = {part.dtype for part in network.state_dict().values() if part.is_floating_point()}
    return ", ".join(sorted(str(kind).removeprefix("torch.") for kind in held - {torch.float32}))
