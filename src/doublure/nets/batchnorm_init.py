"""How BatchNorm scales begin, and a BatchNorm layer that normalises the input.

    y = gamma (x - mu) / sqrt(var + eps) + beta

All scales begin at gamma = s below 1, all shifts at beta = 0. The layer in front of the network has
gamma = s d and a fixed beta = 0, where

    d = std of relu(z), z ~ N(0, 1) = sqrt(1/2 - 1/(2 pi)) = 0.584

so that the first convolution sees the spread that all others see behind BatchNorm and ReLU. In
evaluation, with running statistics, that layer is nothing but a normalisation of the input:

    (x - mean) / std    with    mean = mu, std = sqrt(var + eps) / gamma

Differs from the paper: the scales to set are found by the type of their layer, and not by "weight"
in the name of a vector, which finds LayerNorm's, PReLU's and some depthwise convolutions', too.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.core.cards import Card
from doublure.core.checks import positive

CARD = Card(
    paper="Davis, Frank: Revisiting Batch Norm Initialization, arXiv:2110.13989",
    needs=("nothing",),
)


def activation_deviation() -> float:
    """Return the standard deviation of relu(z) for a standard normal z."""
    return math.sqrt(1 / 2 - 1 / (2 * math.pi))


def rescale_batchnorm_(
    module: nn.Module, scale: float, kinds: type[_BatchNorm] = _BatchNorm
) -> int:
    """Set every BatchNorm scale to `scale` and every shift to 0; return how many layers there are.

    Those of shortcuts and of the ends of residual branches are among them.
    """
    positive("scale", scale)
    layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
    affine = [layer for layer in layers if isinstance(layer.weight, Tensor)]
    with torch.no_grad():
        for layer in affine:
            layer.weight.fill_(scale)
            layer.bias.zero_()
    return len(affine)


class InputBatchNorm(nn.BatchNorm2d):
    """BatchNorm in front of a network: its shift is fixed at 0.

    Args:
        scale: that gamma begins with; `d` times the scale of the network's own layers.
        learn: whether gamma is trained.
    """

    def __init__(self, channels: int, scale: float = 0.58, *, learn: bool = True) -> None:
        positive("scale", scale)
        super().__init__(channels)
        rescale_batchnorm_(self, scale)
        self.weight.requires_grad_(learn)
        self.bias.requires_grad_(False)

    @property
    def normalisation(
        self,
    ) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        """Mean and deviation by which the layer normalises in evaluation; gamma must be positive.

        In float64: the square root and the quotient round once, when they are stored.
        """
        mean, variance = self.running_mean, self.running_var
        assert mean is not None
        assert variance is not None
        return (
            mean.detach().double(),
            (variance.double() + self.eps).sqrt() / self.weight.detach().double(),
        )
