"""A network that learns its own normalisation: BatchNorm in front, folded into mean and std.

The input, in [0, 1], goes through a BatchNorm layer whose shift is fixed at 0; its scale is trained
with the rate and decay of the network's own BatchNorm scales. At the end its running statistics and
its scale become the mean and std of the network's contract, by which it normalises from then on:

    mean = mu,  std = sqrt(var + eps) / gamma

The network has no layer more than before, and nobody has told it a mean or a std. While training,
x -> a x + b with a > 0 changes nothing, up to eps.

Differs from the paper: there the layer stays in the network. Here gamma is kept positive, at a
hundredth of where it begins at least, as no std stands for a scale of zero.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.core.checks import positive
from doublure.core.protocols import Batch
from doublure.nets.batchnorm_init import InputBatchNorm
from doublure.nets.features import device_of
from doublure.nets.network import Network

# The layer's name in the network, and so in a checkpoint, while it trains.
_NAME = "input_batchnorm"
_LEAST = 0.01


@dataclass(frozen=True, kw_only=True)
class LearnedNormalisation:
    """Rule: mean and std of the network are learned.

    Args:
        scale: of the network's own BatchNorm layers, when they begin.
        deviation: of what all other convolutions see at scale 1; 0.58 is that of relu(z) for a
            standard normal z.
        learn: whether the scale is trained, too; the statistics always follow the images.
    """

    scale: float = 0.1
    deviation: float = 0.58
    learn: bool = True

    def __post_init__(self) -> None:
        positive("scale", self.scale)
        positive("deviation", self.deviation)

    def open(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, rng: torch.Generator
    ) -> "LearnedNormalisationHook":
        if not isinstance(student, Network) or student.contract.normalisation is None:
            raise ValueError(
                "a normalisation is learned for a Network that takes images, which this "
                f"{type(student).__name__} does not; leave the rule out"
            )
        mean, _ = student.contract.normalisation
        layer = InputBatchNorm(len(mean), self.scale * self.deviation, learn=self.learn)
        layer.to(device_of(student)).train(student.training)
        if self.learn:
            group = _group_of_scales(student, optimizer)
            alike = {name: value for name, value in group.items() if name != "params"}
            optimizer.add_param_group({**alike, "params": [layer.weight]})
        return LearnedNormalisationHook(student, layer)


class LearnedNormalisationHook:
    """Puts the layer in front of the network, and takes it away again at the end."""

    def __init__(self, student: Network[Any], layer: InputBatchNorm) -> None:
        self._student, self._layer = student, layer
        self._least = _LEAST * float(layer.weight.detach().min())
        student.mean.zero_()
        student.std.fill_(1.0)
        student.add_module(_NAME, layer)
        self._handle = student.register_forward_pre_hook(_normalise)

    def before_step(self, step: int, batch: Batch) -> None:
        if len(batch.images) < 2:
            raise ValueError(
                "a normalisation is learned from batches, and the statistics of one image are its "
                "own; batch_size must be at least 2 on each process"
            )

    def after_step(self, step: int) -> None:
        with torch.no_grad():
            self._layer.weight.clamp_(min=self._least)

    def finish(self) -> nn.Module:
        """Return the network as it was, with another mean and std."""
        student = self._student
        self._handle.remove()
        delattr(student, _NAME)
        mean, std = self._layer.normalisation
        student.mean.copy_(mean.view_as(student.mean))
        student.std.copy_(std.view_as(student.std))
        student.contract = dataclasses.replace(
            student.contract,
            mean=tuple(student.mean.flatten().tolist()),
            std=tuple(student.std.flatten().tolist()),
        )
        return student

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def _normalise(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # By its name: a copy of the network goes by its own layer.
    return (network.get_submodule(_NAME)(inputs[0]), *inputs[1:])


def _group_of_scales(student: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimizer's group of BatchNorm scales, or the first where there are none."""
    scales = {id(layer.weight) for layer in student.modules() if isinstance(layer, _BatchNorm)}
    groups: list[dict[str, Any]] = optimizer.param_groups
    own = (group for group in groups if any(id(part) in scales for part in group["params"]))
    return next(own, groups[0])
