"""Noise: independent random pixels, the simplest transfer set and the baseline of all others.

Gaussian: x = clip(m_c + s_c n, 0, 1), n ~ N(0, 1) for each pixel and channel c, where m and s are
the mean and standard deviation of the network's training images. Uniform: x ~ U(0, 1).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of
from doublure.core.protocols import StreamContext
from doublure.sources.procedural import ProceduralStream

CARD = Card(
    paper="Frank, Davis: What Makes a Good Dataset for Knowledge Distillation?, arXiv:2411.12817",
    needs=("logits",),
    reported={
        "CIFAR-10, ResNet-50 to ResNet-18, Gaussian noise": 69.24,
        "the same with the original data": 95.98,
        "CIFAR-100": 22.09,
        "Tiny-ImageNet": 5.37,
        "EuroSAT": 54.55,
        "Oxford Pets": 3.43,
    },
)

Distribution = Literal["gaussian", "uniform"]


def gaussian_noise(
    num_images: int,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    rng: torch.Generator,
) -> Float[Tensor, "batch channels height width"]:
    """Return Gaussian images with these channel statistics, clipped to [0, 1]."""
    shape = (num_images, len(mean), *size)
    centre, spread = (torch.tensor(v, device=rng.device).view(1, -1, 1, 1) for v in (mean, std))
    return (
        torch.randn(shape, generator=rng, device=rng.device).mul_(spread).add_(centre).clamp_(0, 1)
    )


def uniform_noise(
    num_images: int, size: tuple[int, int], channels: int, rng: torch.Generator
) -> Float[Tensor, "batch channels height width"]:
    """Return images with independent values, uniform in [0, 1)."""
    return torch.rand((num_images, channels, *size), generator=rng, device=rng.device)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Source: independent pixels. Default: Gaussian, matched to the teacher's normalisation.

    Args:
        distribution: "gaussian" or "uniform".
        mean: mean of the Gaussian for each channel, in units of [0, 1]; None uses the contract's.
        std: standard deviation for each channel, before clipping; None uses the contract's.
    """

    distribution: Distribution = "gaussian"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        one_of("distribution", self.distribution, get_args(Distribution))
        if self.distribution == "uniform" and not (self.mean is None and self.std is None):
            raise ValueError("uniform noise has no mean and std; remove them, or use gaussian")
        if self.std is not None and min(self.std) < 0:
            raise ValueError(f"std must not be negative, got {self.std}")

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> ProceduralStream:
        contract = context.contract
        mean = contract.mean if self.mean is None else self.mean
        std = contract.std if self.std is None else self.std
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != contract.channels:
                raise ValueError(
                    f"{name} of the noise must have one value per channel "
                    f"({contract.channels}), got {len(values)}"
                )

        def paint(num_images: int, rng: torch.Generator) -> Tensor:
            if self.distribution == "uniform":
                return uniform_noise(num_images, contract.size, contract.channels, rng)
            return gaussian_noise(num_images, contract.size, mean, std, rng)

        return ProceduralStream(paint, context, rng)
