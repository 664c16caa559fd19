"""Matching: another source's images, brought to the brightness and contrast the network expects.

A network's input contract holds the mean m and the standard deviation s of the images it was
trained on, per channel. They are all that is known of those images, and free. Each image x with
mean m_x and deviation s_x over its pixels (and channels) becomes

    clip(m + s (a + b (x - m_x) / s_x), 0, 1)

with a ~ N(0, spread^2) and log b ~ N(0, spread^2) for each image, so that images stay brighter and
darker, flatter and starker than each other around what is expected.

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

# An image flatter than one step of eight bits has no contrast to stretch.
_FLATTEST = 1 / 255


def match(
    images: Float[Tensor, "batch channels height width"],
    mean: Float[Tensor, " channels"],
    std: Float[Tensor, " channels"],
    shift: Float[Tensor, " batch"],
    stretch: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Return the images at the mean and deviation given, shifted and stretched in units of std."""
    own_mean = images.mean((1, 2, 3), keepdim=True)
    own_std = images.std((1, 2, 3), keepdim=True).clamp(min=_FLATTEST)
    standard = (images - own_mean) / own_std
    moved = shift[:, None, None, None] + stretch[:, None, None, None] * standard
    return (mean[:, None, None] + std[:, None, None] * moved).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Source: another one at the contract's mean and standard deviation.

    Args:
        source: what is matched.
        spread: how far single images are from it, in standard deviations and as log contrast.
    """

    source: Source
    spread: float = 0.25

    def __post_init__(self) -> None:
        if not self.spread >= 0:
            raise ValueError(f"spread must not be negative, got {self.spread}")

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "MatchedStream":
        """Return the stream; the teacher is only handed on."""
        return MatchedStream(
            self, context, self.source.open(context, teacher, child(rng, "source")), rng
        )


class MatchedStream:
    """A stream that changes each batch of another one; the state is that one's."""

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
        numbers = self._settings.spread * torch.randn(2, len(images), generator=rng)
        shift, stretch = numbers.to(images.device, non_blocking=True)
        made = match(images, self._mean, self._std, shift, stretch.exp())
        return replace(batch, views={"student": made, "teacher": made}, teacher=None)

    def state_dict(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state)
