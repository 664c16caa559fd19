"""The networks of the LCW generator: encoder, decoder, and a generator of codes.

    x = Dec(M(noise)),   noise ~ N(0, I_n),   M: R^n -> R^d,   Dec: R^d -> images in [0, 1]

"dense" for small grey images, "convolutional" for those of 32 pixels and more. The file also holds
codes of training images, for the simpler ways to draw codes.

Differs from the paper: one output function, the sigmoid, for all decoders (those for colour had a
tanh mapped to [0, 1], which is equal up to the scale of the layer before it).
"""

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.checks import one_of, positive

Architecture = Literal["dense", "convolutional"]

# Total stride of the decoder's two upsampling layers, and of the encoder's three convolutions.
_DECODED, _ENCODED = 4, 8


@dataclass(frozen=True, kw_only=True)
class CramerWoldPlan:
    """Architecture of a generator. Default: the paper's for MNIST, on 8 x 8 digits.

    Args:
        architecture: "dense" or "convolutional"; "dense" is for images below 16 pixels or grey
            ones.
        size: height and width of the images in pixels.
        channels: number of image channels, 1 or 3.
        latent: dimension of a code.
        noise: dimension of the noise.
        width: width of each dense layer, or of the first convolution.
        hidden: width of the five layers of the latent generator.
    """

    architecture: Architecture = "dense"
    size: tuple[int, int] = (8, 8)
    channels: int = 1
    latent: int = 8
    noise: int = 8
    width: int = 256
    hidden: int = 512

    def __post_init__(self) -> None:
        one_of("architecture", self.architecture, get_args(Architecture))
        for name in ("channels", "latent", "noise", "width", "hidden"):
            positive(name, getattr(self, name))
        if min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size}")
        if self.architecture == "convolutional" and any(side % _ENCODED for side in self.size):
            raise ValueError(
                f"a convolutional generator needs image sides that are multiples of {_ENCODED}, "
                f"got "
                f"{self.size}; use another size, or architecture dense"
            )


# By the paper's data sets.
PUBLISHED = {
    "mnist": CramerWoldPlan(),
    "svhn": CramerWoldPlan(
        architecture="convolutional", size=(32, 32), channels=3, latent=48, noise=48, width=64
    ),
}


class AutoEncoder(nn.Module):
    """Encoder and decoder; returns codes and reconstructions."""

    def __init__(self, plan: CramerWoldPlan) -> None:
        super().__init__()
        dense = plan.architecture == "dense"
        self.encoder = _dense_encoder(plan) if dense else _convolutional_encoder(plan)
        self.decoder = _dense_decoder(plan) if dense else _convolutional_decoder(plan)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        codes = self.encoder(images)
        return {"images": self.decoder(codes), "codes": codes}


class CramerWoldGenerator(nn.Module):
    """A trained generator: noise to images.

    Args:
        num_codes: number of training images whose codes are in `codes`.
    """

    codes: Tensor

    def __init__(self, plan: CramerWoldPlan, num_codes: int) -> None:
        super().__init__()
        self.plan = plan
        self.autoencoder = AutoEncoder(plan)
        self.latent = latent_generator(plan)
        self.register_buffer("codes", torch.zeros(num_codes, plan.latent))

    def forward(
        self, noise: Float[Tensor, "batch noise"]
    ) -> Float[Tensor, "batch channels height width"]:
        return self.decode(self.latent(noise))

    def decode(
        self, codes: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the decoded images in [0, 1]."""
        images: Tensor = self.autoencoder.decoder(codes)
        return images


def latent_generator(plan: CramerWoldPlan) -> nn.Sequential:
    """Return M: five dense layers, then a projection to a code."""
    return nn.Sequential(
        *_dense_layers([plan.noise, *[plan.hidden] * 5], bias=True),
        nn.Linear(plan.hidden, plan.latent),
    )


def _dense_layers(widths: list[int], *, bias: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias), nn.BatchNorm1d(after), nn.ReLU()]
    return layers


def _pixels(plan: CramerWoldPlan) -> int:
    return plan.channels * plan.size[0] * plan.size[1]


def _dense_encoder(plan: CramerWoldPlan) -> nn.Sequential:
    layers = _dense_layers([_pixels(plan), *[plan.width] * 3], bias=False)
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(plan.width, plan.latent))


def _dense_decoder(plan: CramerWoldPlan) -> nn.Sequential:
    return nn.Sequential(
        *_dense_layers([plan.latent, *[plan.width] * 3], bias=False),
        nn.Linear(plan.width, _pixels(plan)),
        nn.Sigmoid(),
        nn.Unflatten(1, (plan.channels, *plan.size)),
    )


def _convolutional_encoder(plan: CramerWoldPlan) -> nn.Sequential:
    widths = [plan.channels, plan.width, 2 * plan.width, 4 * plan.width]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    height, width = (side // _ENCODED for side in plan.size)
    last = nn.Linear(widths[-1] * height * width, plan.latent)
    return nn.Sequential(*layers, nn.Flatten(), last)


def _convolutional_decoder(plan: CramerWoldPlan) -> nn.Sequential:
    height, width = (side // _DECODED for side in plan.size)
    widths = [4 * plan.width, 2 * plan.width, plan.width]
    layers: list[nn.Module] = [
        nn.Linear(plan.latent, widths[0] * height * width),
        nn.ReLU(),
        nn.Unflatten(1, (widths[0], height, width)),
    ]
    for before, after in itertools.pairwise(widths):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], plan.channels, 3, 1, 1), nn.Sigmoid())
