"""Generators: networks from random codes z ~ N(0, 1) to images in [0, 1].

Two published shapes, at any size h x w (the grid starts with ceil(h / 2^n) x ceil(w / 2^n), is
doubled n times and cropped to its centre):

    upsampling      linear -> 2W x h/4 x w/4, BN; x2, conv 2W, BN, LReLU; x2, conv W, BN, LReLU;
                    conv C                                       (Fang et al. 2019, W = 64)
    deconvolution   linear -> 8W x h/16 x w/16, BN, LReLU; four transposed convolutions 4 x 4, s 2,
                    to 4W, 2W, W, W, BN, LReLU each; conv C      (DCGAN-like, W = 64)

The output y of the last convolution becomes an image x in [0, 1] by one of three heads:

    standard   x = clip(m + s BN(tanh y), 0, 1), BN without weights, m and s the contract's
    sigmoid    x = 1 / (1 + exp(-y))
    tanh       x = (1 + tanh y) / 2

In papers the teacher gets normalised values: BN(tanh y) with unit variance per channel over the
batch, or tanh y if mean and std are 0.5. Here the teacher normalises images itself; "tanh" is the
same map, "standard" differs by the clip: values outside of [0, 1] are clipped and have no gradient.
"""

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.checks import one_of, positive
from doublure.core.protocols import InputContract

Shape = Literal["upsampling", "deconvolution"]
Head = Literal["standard", "sigmoid", "tanh"]
Start = Literal["he", "dcgan"]

_SLOPE = 0.2
# Radford et al. (arXiv:1511.06434), sec. 4.
_DCGAN_STD = 0.02


class Generator(nn.Module):
    """Images in [0, 1] from codes; the module's docstring has the shapes and heads.

    In training mode its BatchNorm layers use batch statistics, also in the head: use large batches.

    Args:
        latent: length of a code.
        width: W of the shape.
        bn_eps: eps of the BatchNorm layers after convolutions.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        contract: InputContract,
        *,
        shape: Shape,
        head: Head,
        latent: int,
        width: int,
        bn_eps: float,
    ) -> None:
        super().__init__()
        self.latent, self.size, self.head = latent, contract.size, head
        first, blocks = (_upsampling if shape == "upsampling" else _deconvolution)(width, bn_eps)
        doublings = 2 if shape == "upsampling" else 4
        self.grid = tuple(-(-side // 2**doublings) for side in contract.size)
        self.first = nn.Linear(latent, first * self.grid[0] * self.grid[1])
        # The upsampling shape has no activation here, the deconvolution has one in its blocks.
        self.first_bn = nn.BatchNorm2d(first)
        self.blocks = blocks
        self.last = nn.Conv2d(width, contract.channels, 3, padding=1)
        self.last_bn = (
            nn.BatchNorm2d(contract.channels, affine=False) if head == "standard" else None
        )
        per_channel = (1, contract.channels, 1, 1)
        self.register_buffer(
            "mean", torch.tensor(contract.mean).view(per_channel), persistent=False
        )
        self.register_buffer("std", torch.tensor(contract.std).view(per_channel), persistent=False)

    def forward(
        self, codes: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch channels height width"]:
        return self.as_images(self.values(codes))

    def values(
        self, codes: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the output of the last convolution, at the size of the images."""
        start = self.first(codes).unflatten(1, (-1, *self.grid))
        x: Tensor = self.last(self.blocks(self.first_bn(start)))
        height, width = self.size
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        return x[:, :, top : top + height, left : left + width].contiguous()

    def as_images(
        self, values: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return images in [0, 1]."""
        if self.last_bn is not None:
            standard: Tensor = self.last_bn(values.tanh())
            return (self.mean + self.std * standard).clamp(0, 1)
        return values.sigmoid() if self.head == "sigmoid" else (1 + values.tanh()) / 2

    def draw_codes(
        self, num_codes: int, rng: torch.Generator
    ) -> Float[Tensor, "{num_codes} latent"]:
        """Return codes from N(0, 1), on the generator's device."""
        return torch.randn(num_codes, self.latent, generator=rng).to(
            self.mean.device, non_blocking=True
        )


@dataclass(frozen=True, kw_only=True)
class GeneratorPlan:
    """Architecture of a source's generator. Default: Fang et al.'s for images of 32 pixels.

    Args:
        shape: "upsampling" or "deconvolution".
        head: map from outputs to images: "standard", "sigmoid" or "tanh".
        latent: length of a code.
        width: channels of the last block.
        bn_eps: eps of the BatchNorm layers after convolutions.
        start: initialisation of the weights, "he" or "dcgan".
    """

    shape: Shape = "upsampling"
    head: Head = "standard"
    latent: int = 256
    width: int = 64
    bn_eps: float = 1e-5
    start: Start = "he"

    def __post_init__(self) -> None:
        for name, kinds in (("shape", Shape), ("head", Head), ("start", Start)):
            one_of(name, getattr(self, name), get_args(kinds))
        for name in ("latent", "width", "bn_eps"):
            positive(name, getattr(self, name))

    def make(self, contract: InputContract, rng: torch.Generator) -> Generator:
        """Return a generator with new random weights."""
        with torch.random.fork_rng(devices=[]):
            generator = Generator(
                contract,
                shape=self.shape,
                head=self.head,
                latent=self.latent,
                width=self.width,
                bn_eps=self.bn_eps,
            )
        initialise_(generator, rng, self.start)
        return generator


def initialise_(network: nn.Module, rng: torch.Generator, start: Start = "he") -> None:
    """Draw all weights of `network` from `rng`; its BatchNorm layers become the identity.

    "he" keeps the variance from layer to layer: N(0, 2 / ((1 + 0.2^2) fan_in)) for convolutions
    (He et al. 2015, eq. 15), N(0, 1 / fan_in) for linear layers. "dcgan" is N(0, 0.02^2), and
    N(1, 0.02^2) for the weights of BatchNorm.
    """
    one_of("start", start, get_args(Start))
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            std = _DCGAN_STD if start == "dcgan" else _he_std(layer)
            normal_(layer.weight, std, rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_running_stats()
            if layer.affine:
                normal_(layer.weight, _DCGAN_STD if start == "dcgan" else 0.0, rng, mean=1.0)
                nn.init.zeros_(layer.bias)


def normal_(weight: Tensor, std: float, rng: torch.Generator, mean: float = 0.0) -> None:
    """Fill a weight from N(mean, std^2); `rng` may be on another device."""
    with torch.no_grad():
        weight.copy_(mean + std * torch.randn(weight.shape, generator=rng))


def _he_std(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> float:
    if isinstance(layer, nn.Linear):
        return float(layer.in_features**-0.5)
    # A transposed convolution of stride s adds up 1 / s^2 of its kernel at each pixel.
    features = layer.kernel_size[0] * layer.kernel_size[1]
    if isinstance(layer, nn.ConvTranspose2d):
        features = features // (layer.stride[0] * layer.stride[1])
    return float((2 / ((1 + _SLOPE**2) * layer.in_channels * features)) ** 0.5)


def _upsampling(width: int, bn_eps: float) -> tuple[int, nn.Sequential]:
    first = 2 * width

    def block(channels: int, made: int) -> list[nn.Module]:
        layers: list[nn.Module] = [_Double(), nn.Conv2d(channels, made, 3, padding=1)]
        return [*layers, nn.BatchNorm2d(made, bn_eps), nn.LeakyReLU(_SLOPE)]

    return first, nn.Sequential(*block(first, first), *block(first, width))


def _deconvolution(width: int, bn_eps: float) -> tuple[int, nn.Sequential]:
    first = 8 * width
    sizes = (first, 4 * width, 2 * width, width, width)
    layers: list[nn.Module] = [nn.LeakyReLU(_SLOPE)]
    for channels, made in itertools.pairwise(sizes):
        layers += [
            nn.ConvTranspose2d(channels, made, 4, stride=2, padding=1),
            nn.BatchNorm2d(made, bn_eps),
            nn.LeakyReLU(_SLOPE),
        ]
    return first, nn.Sequential(*layers)


class _Double(nn.Module):
    """Nearest-neighbour upsampling by two."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")
