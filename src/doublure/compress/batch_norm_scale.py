"""BatchNorm scales below 1 to begin with: large normalised values do not pass straight through.

gamma = s, beta = 0 in every BatchNorm layer of a network that has not been trained. In a stack of
convolution, BatchNorm, ReLU and in residual networks of them, with a head without bias, the logits
are s times those of scale 1. For the same gradient of the loss by the logits, the gradients of
convolutions and head are s times as large, those of gamma and beta the same.

Differs from the paper: convolutions and the head's bias begin as the architecture has them. There
they are drawn by fan-in, and all biases are zero.
"""

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.core.checks import positive
from doublure.core.protocols import Batch
from doublure.nets.batchnorm_init import rescale_batchnorm_

# The paper trains for more than 60,000 steps. Below about so many the smaller gradients cost more
# than they bring.
FEW_STEPS = 5_000


@dataclass(frozen=True, kw_only=True)
class BatchNormScale:
    """Transform: every BatchNorm scale begins at `scale`, every shift at 0.

    Args:
        scale: that the scales begin with; 1 leaves the network as it is.
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        positive("scale", self.scale)

    def __call__(
        self, model: nn.Module, batches: Iterable[Batch] | None, rng: torch.Generator
    ) -> nn.Module:
        """Return `model` with other scales; `batches` is not used."""
        if self.scale == 1:
            return model
        made = copy.deepcopy(model)
        _check_untrained(made)
        rescale_batchnorm_(made, self.scale)
        return made

    def remarks(self, student: nn.Module, *, steps: int, optimizer: str) -> tuple[str, ...]:
        """Return what to expect of a short training, or of one by another optimizer."""
        if self.scale == 1:
            return ()
        few = (
            f"BatchNorm scales begin at {self.scale:g}: in {steps:,} steps the smaller gradients "
            "of the convolutions usually cost more than they bring"
        )
        adaptive = (
            "BatchNorm scales below 1 were published for SGD; AdamW divides gradients by their "
            "size, so that only the scales' lower rate is left"
        )
        return ((few,) if steps < FEW_STEPS else ()) + ((adaptive,) if optimizer != "sgd" else ())


def _check_untrained(network: nn.Module) -> None:
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, _BatchNorm) and isinstance(layer.weight, Tensor)
    ]
    if not layers:
        raise ValueError(
            f"no BatchNorm layer to rescale{_other_norms(network)}; take a network with BatchNorm, "
            "or leave --batch-norm out"
        )
    if any((layer.weight != 1).any() or (layer.bias != 0).any() for layer in layers):
        raise ValueError(
            "the BatchNorm scales are no longer 1, or the shifts not 0: other scales would destroy "
            "the weights; leave --init-from away, or --set batch-norm-scale.scale=1"
        )


def _other_norms(network: nn.Module) -> str:
    kinds = (nn.LayerNorm, nn.GroupNorm)
    found = Counter(type(m).__name__ for m in network.modules() if isinstance(m, kinds))
    told = ", ".join(f"{count} {kind}" for kind, count in found.items())
    return f"; the network normalises layers ({told})" if told else ""
