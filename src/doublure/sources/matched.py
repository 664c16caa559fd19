"""Matching: another source's images, normalised to the network's expected mean and contrast.

A network's input contract has the mean m and the standard deviation s of its training images, per
channel; without the data, nothing else is known of them. Each image x with mean m_x and standard
deviation s_x over its pixels (and channels) becomes

    clip(m + s (a + b (x - m_x) / s_x), 0, 1)

with a ~ N(0, spread^2) and log b ~ N(0, spread^2) for each image, so that images still differ in
brightness and contrast.

Frank, Davis (arXiv:2411.12817) match noise to the original data's mean and variance; matching
other images is ours.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.protocols import Batch, Source, Stream, StreamContext
from doublure.core.seeding import child

CARD = Card(
    paper="Frank, Davis: What Makes a Good Dataset for Knowledge Distillation?, arXiv:2411.12817",
    needs=("inputs",),
)

# Lower bound of an image's standard deviation: one step of 8 bits.
_FLATTEST = 1 / 255


def match(
    images: Float[Tensor, "batch channels height width"],
    mean: Float[Tensor, " channels"],
    std: Float[Tensor, " channels"],
    shift: Float[Tensor, " batch"],
    stretch: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Return the images with this mean and standard deviation, after a shift and a stretch."""
    own_mean = images.mean((1, 2, 3), keepdim=True)
    own_std = images.std((1, 2, 3), keepdim=True).clamp(min=_FLATTEST)
    standard = (images - own_mean) / own_std
    scaled = shift[:, None, None, None] + stretch[:, None, None, None] * standard
    return (mean[:, None, None] + std[:, None, None] * scaled).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Source: another source's images with the contract's mean and standard deviation.

    Args:
        source: source of the images.
        spread: standard deviation of the random shift (in units of s) and of the log contrast.
    """

    source: Source
    spread: float = 0.25

    def __post_init__(self) -> None:
        if not self.spread >= 0:
            raise ValueError(f"spread must not be negative, got {self.spread}")

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "MatchedStream":
        """Return the stream; only the inner source uses the teacher."""
        return MatchedStream(
            self, context, self.source.open(context, teacher, child(rng, "source")), rng
        )


class MatchedStream:
    """A stream that changes each batch of the inner stream; its state is the inner one's."""

    def __init__(
        self, settings: Matched, context: StreamContext, stream: Stream, rng: torch.Generator
    ) -> None:
        self._settings, self._context, self._stream, self._rng = settings, context, stream, rng
        self._mean = torch.tensor(context.contract.mean, device=context.device)
        self._std = torch.tensor(context.contract.std, device=context.device)

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch = self._stream.draw(step, student)
        images = batch.images
        rng = child(self._rng, "match", self._context.split, self._context.rank, step)
        draws = self._settings.spread * torch.randn(2, len(images), generator=rng)
        shift, stretch = draws.to(images.device, non_blocking=True)
        matched = match(images, self._mean, self._std, shift, stretch.exp())
        return replace(batch, views={"student": matched, "teacher": matched}, teacher=None)

    def state_dict(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state)
