"""A network together with the input contract it was trained for.

`Network` takes images in [0, 1] and normalises them itself, so no other code does; tokens pass
unchanged. Its `body` is the plain architecture, and checkpoints hold `body.state_dict()`.
"""

import copy
from collections.abc import Mapping
from typing import Any, Generic

import torch
from torch import Tensor, nn

from doublure.core.protocols import AnyContract, Input

# What the output is called that counts, where others stand beside it in a dict.
_MAIN = "out"


class Network(nn.Module, Generic[AnyContract]):
    """An architecture that takes images in [0, 1], NCHW; mean and std belong to it.

    `Network` alone is one of images; a `Network[TextContract]` takes tokens.

    Args:
        body: the architecture; its state_dict keys are the checkpoint's.
        contract: meaning of its inputs and outputs; each task has its own class.
        reference: the REF that names it, "" if it was built in Python.
        plan: records of later changes to that architecture (pruned, quantized).
    """

    mean: Tensor
    std: Tensor
    # Memory format of the architecture's input images; see `nets.memory_format`.
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
            inputs = self.to_input(inputs)
        return main_output(self.body(inputs))

    def to_input(self, images: Tensor) -> Tensor:
        """Return the normalised input of the architecture for images in [0, 1]."""
        return self._in_order((images - self.mean) / self.std)

    def _in_order(self, images: Tensor) -> Tensor:
        """Return the images in the architecture's memory format."""
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        height, width = images.shape[2:]
        # By strides: with one channel, both formats count as contiguous.
        if images.stride()[1:] == (height * width, width, 1):
            return images
        return images.clone(memory_format=torch.contiguous_format)


def main_output(output: Any) -> Any:
    """Return the output that counts: of a dict with "out", as dense networks of torchvision
    answer with, that one; the others serve their own training.
    """
    return output[_MAIN] if isinstance(output, Mapping) and _MAIN in output else output


def freeze(network: nn.Module) -> nn.Module:
    """Return `network` in eval mode without parameter gradients; the original is unchanged.

    Weights and buffers are shared, not copied; gradients still reach the inputs.
    """
    memo: dict[int, Any] = {id(buffer): buffer for buffer in network.buffers()}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(network, memo).eval()


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters of the network."""
    return sum(parameter.numel() for parameter in network.parameters())


def other_precisions(network: nn.Module) -> str:
    """Return the precisions other than float32 among a network's tensors, or ""."""
    held = {part.dtype for part in network.state_dict().values() if part.is_floating_point()}
    return ", ".join(sorted(str(kind).removeprefix("torch.") for kind in held - {torch.float32}))
