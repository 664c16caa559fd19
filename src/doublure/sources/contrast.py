"""Contrast: views of the same image must be similar, views of different images must not.

An image's features are the spatial means of the inputs of all BatchNorm layers of the teacher,
concatenated, mapped by a small head h and normalised to length 1. With the local view l_i (a random
crop of image i, enlarged and flipped at random), the global views g_j (shifted and flipped) of a
batch, and features b_j of earlier images:

    L = mean_i [ -log softmax_j( l_i . g_j / T )_i - log softmax( l_i . (g_i, b_1 .. b_n) / T )_1 ]

Gradients reach the images only through l. The head is trained too; g is added to the memory bank,
a ring buffer.

Fang et al. (CMI), arXiv:2105.08584: T = 0.2, a bank of 40 960 of which 4 096 are compared, a head
of width 256, local views of 25 to 100 % of the area.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.seeding import child
from doublure.nets.batchnorm_statistics import batchnorm_layers
from doublure.nets.generators import initialise_

# The published settings.
_WIDTH = 256
_BANK, _COMPARED = 40_960, 4_096
_LEAST_AREA = 0.25
_HEAD_RATE = 1e-3


def contrastive_loss(
    local: Float[Tensor, "batch width"],
    whole: Float[Tensor, "batch width"],
    bank: Float[Tensor, "bank width"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the contrastive loss of local views against the global views and the bank."""
    own = torch.arange(len(local), device=local.device)
    loss = F.cross_entropy(local @ whole.T / temperature, own)
    if not len(bank):
        return loss
    same = (local * whole).sum(1, keepdim=True)
    logits = torch.cat([same, local @ bank.T], dim=1) / temperature
    return loss + F.cross_entropy(logits, torch.zeros_like(own))


def local_views(
    images: Float[Tensor, "batch channels height width"],
    areas: Float[Tensor, " batch"],
    places: Float[Tensor, "2 batch"],
    flips: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Return square crops of images, enlarged to the full size.

    Args:
        areas: area of each crop as a share of the image.
        places: position of the crop among those possible, in [0, 1], down and right.
        flips: 1 for images that are flipped horizontally, 0 for others.
    """
    side = areas.sqrt()
    centre = (2 * places - 1) * (1 - side)
    mirror = 1 - 2 * flips
    zero = torch.zeros_like(side)
    down = torch.stack([zero, side, centre[0]], dim=1)
    right = torch.stack([mirror * side, zero, centre[1]], dim=1)
    grid = F.affine_grid(torch.stack([right, down], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@contextmanager
def spatial_means(network: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that collects the spatial means of each BatchNorm layer's input."""
    means: list[Tensor] = []

    def take(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0]
        means.append(values.flatten(2).mean(2) if values.dim() > 2 else values)

    handles = [
        layer.register_forward_pre_hook(take) for layer in batchnorm_layers(network).values()
    ]
    try:
        yield means
    finally:
        for handle in handles:
            handle.remove()


class Contrast:
    """The contrastive loss with its state: the head, its optimizer and the bank."""

    def __init__(
        self,
        teacher: nn.Module,
        example: Float[Tensor, "batch channels height width"],
        temperature: float,
        rng: torch.Generator,
    ) -> None:
        self._teacher, self._temperature = teacher, temperature
        with torch.no_grad():
            width = self._features(example).shape[1]
        with torch.random.fork_rng(devices=[]):
            head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, _WIDTH))
        initialise_(head, rng)
        self._head = head.to(example.device)
        self._optimizer = torch.optim.Adam(self._head.parameters(), _HEAD_RATE)
        self._bank = torch.empty(0, _WIDTH)
        self._newest = torch.empty(0, _WIDTH)

    def loss(self, images: Tensor, whole: Tensor, rng: torch.Generator) -> Tensor:
        """Return the loss of a batch; the head gets its gradient, for `step`.

        Args:
            whole: the global views of the images.
        """
        count, device = len(images), images.device
        areas = _LEAST_AREA + (1 - _LEAST_AREA) * torch.rand(count, generator=rng)
        places = torch.rand(2, count, generator=rng)
        flips = (torch.rand(count, generator=rng) < 0.5).float()
        part = local_views(images, areas.to(device), places.to(device), flips.to(device))
        local = self._embed(part)
        with torch.no_grad():
            self._newest = self._embed(whole)
        picks = torch.randperm(len(self._bank), generator=child(rng, "bank"))[:_COMPARED]
        bank = self._bank[picks].to(device)
        loss = contrastive_loss(local, self._newest, bank, self._temperature)
        weights = list(self._head.parameters())
        for weight, gradient in zip(
            weights, torch.autograd.grad(loss, weights, retain_graph=True), strict=True
        ):
            weight.grad = gradient
        return loss

    def step(self) -> None:
        """Update the head; call it after the gradient of the images is computed."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def remember(self) -> None:
        """Add the global views of the last batch to the bank."""
        self._bank = torch.cat([self._bank, self._newest.cpu()])[-_BANK:]

    def state_dict(self) -> dict[str, Any]:
        state = {"head": self._head.state_dict(), "optimizer": self._optimizer.state_dict()}
        return copy.deepcopy(state | {"bank": self._bank})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)
        self._head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._bank = state["bank"]

    def _features(self, images: Tensor) -> Tensor:
        with spatial_means(self._teacher) as means:
            self._teacher(images)
        return torch.cat(means, dim=1)

    def _embed(self, images: Tensor) -> Tensor:
        return F.normalize(self._head(self._features(images)), dim=1)
