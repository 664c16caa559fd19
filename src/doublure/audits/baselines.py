"""Baseline images: what a perturbation puts in the place of the pixels that it takes away.

A perturbed image is m x + (1 - m) b. A baseline b is called neutral where it says nothing about
the class; how neutral it is can be measured (`neutrality`), and seldom is it so:
    black, white, grey   constant images
    mean                 the mean colour that the network's normalisation states
    own-mean             the mean colour of the image itself
    blur                 the image through a Gaussian, deviation a tenth of its shorter side
    noise                uniform noise
    shuffled             the image's own tiles in random order
    inpainted            filled in from the image's border: Laplace's equation, solved exactly
    neutral              searched for: the network's answer is as near to uniform as possible

All images are in [0, 1], before any normalisation: "black" is zero there, and not the zero of a
normalised tensor, which is the mean colour.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from doublure.core.checks import one_of

Baseline = Literal[
    "black",
    "white",
    "grey",
    "mean",
    "own-mean",
    "blur",
    "noise",
    "shuffled",
    "inpainted",
    "neutral",
]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
# Of the shorter side; the card of published baselines has 1/40 to 1/10.
_BLUR = 0.1
# Tiles along the shorter side, at least.
_TILES = 4
_NEUTRAL_STEPS, _NEUTRAL_RATE = 200, 0.05

Logits = Callable[[Float[Tensor, "batch channels height width"]], Float[Tensor, "batch classes"]]


def baseline_image(
    name: str,
    image: Float[Tensor, "channels height width"],
    mean: Float[Tensor, " channels"],
    rng: torch.Generator,
) -> Float[Tensor, "channels height width"]:
    """Return the baseline of that name for an image; "neutral" is `neutral_image`'s.

    Args:
        mean: the colour of "mean".
        rng: what "noise" and "shuffled" draw from, on the CPU.
    """
    one_of("baseline", name, _MAKERS, way_out="; neutral is made by neutral_image")
    return _MAKERS[name](image, mean.to(image), rng)


def blur(
    image: Float[Tensor, "channels height width"], deviation: float
) -> Float[Tensor, "channels height width"]:
    """Return the image through a Gaussian of that deviation in pixels, reflected at its border."""
    reach = min(math.ceil(3 * deviation), min(image.shape[1:]) - 1)
    at = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    weights = torch.softmax(-(at**2) / (2 * deviation**2), 0)
    padded = F.pad(image[:, None], (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, weights.view(1, 1, -1, 1))
    return F.conv2d(rows, weights.view(1, 1, 1, -1))[:, 0]


def shuffle_tiles(
    image: Float[Tensor, "channels height width"], side: int, rng: torch.Generator
) -> Float[Tensor, "channels height width"]:
    """Return the image with its square tiles in random order; `side` divides both sides."""
    _, height, width = image.shape
    columns = F.unfold(image[None], side, stride=side)
    order = torch.randperm(columns.shape[2], generator=rng).to(image.device)
    return F.fold(columns[..., order], (height, width), side, stride=side)[0]


def inpaint(
    image: Float[Tensor, "channels height width"],
) -> Float[Tensor, "channels height width"]:
    """Return the harmonic image with the same border: each inner pixel is its neighbours' mean."""
    from scipy.fft import dstn, idstn  # slow to import, so only here

    known = image.detach().double().cpu().numpy()
    inner = known[:, 1:-1, 1:-1]
    # Laplace's operator on the inner pixels, and what the border adds to it.
    edge = np.zeros_like(inner)
    edge[:, 0] += known[:, 0, 1:-1]
    edge[:, -1] += known[:, -1, 1:-1]
    edge[:, :, 0] += known[:, 1:-1, 0]
    edge[:, :, -1] += known[:, 1:-1, -1]
    # Sines are its eigenvectors where the border is zero.
    rows, columns = (2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) - 2 for n in inner.shape[1:])
    waves = dstn(-edge, type=1, axes=(1, 2)) / (rows[:, None] + columns)
    filled = known.copy()
    filled[:, 1:-1, 1:-1] = idstn(waves, type=1, axes=(1, 2))
    return torch.from_numpy(filled).clamp(0, 1).to(image)


def neutral_image(
    logits: Logits,
    start: Float[Tensor, "channels height width"],
) -> Float[Tensor, "channels height width"]:
    """Return an image near `start` that the network answers as uniformly as Adam finds.

    Minimised is the divergence of the network's answer from the uniform one; pixels stay in
    [0, 1].
    """
    image = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=_NEUTRAL_RATE)
    best, least = start.detach(), math.inf
    for _ in range(_NEUTRAL_STEPS):
        # The mean of -log q over classes is the divergence up to a constant.
        loss = -F.log_softmax(logits(image[None]), -1).mean()
        if loss.item() < least:
            best, least = image.detach().clone(), loss.item()
        (image.grad,) = torch.autograd.grad(loss, [image])
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    return best


def neutrality(
    logits: Float[Tensor, "batch classes"], target: int
) -> dict[str, Float[Tensor, " batch"]]:
    """Return what a network says of baselines alone: a neutral one is named like any class.

    Returns:
        target: probability of the class that is explained.
        largest: that of the likeliest class.
        entropy: of the answer, over that of a uniform one.
    """
    log_q = F.log_softmax(logits.double(), -1)
    q = log_q.exp()
    entropy = -(q * log_q).sum(-1) / math.log(q.shape[-1])
    return {"target": q[:, target], "largest": q.amax(-1), "entropy": entropy}


def _constant(level: float) -> Callable[[Tensor, Tensor, torch.Generator], Tensor]:
    return lambda image, mean, rng: torch.full_like(image, level)


def _tile_side(height: int, width: int) -> int:
    """Return the largest side that divides both and leaves enough tiles."""
    shared = math.gcd(height, width)
    return max(n for n in range(1, shared + 1) if shared % n == 0 and n <= max(1, shared // _TILES))


_MAKERS: dict[str, Callable[[Tensor, Tensor, torch.Generator], Tensor]] = {
    "black": _constant(0.0),
    "white": _constant(1.0),
    "grey": _constant(0.5),
    "mean": lambda image, mean, rng: mean.view(-1, 1, 1).expand_as(image).clone(),
    "own-mean": lambda image, mean, rng: image.mean((1, 2), keepdim=True).expand_as(image).clone(),
    "blur": lambda image, mean, rng: blur(image, _BLUR * min(image.shape[1:])),
    "noise": lambda image, mean, rng: torch.rand(image.shape, generator=rng).to(image),
    "shuffled": lambda image, mean, rng: shuffle_tiles(image, _tile_side(*image.shape[1:]), rng),
    "inpainted": lambda image, mean, rng: inpaint(image),
}
