"""Interleaved down-sampled training: some steps show the student images of half the size.

Of T steps floor(share T) are small, none of them among the last ones, `full_tail` of all; with
h steps before those and q = share T / h, step t < h is small

    random        with probability q
    alternate     where floor((t + 1) q) > floor(t q)
    progressive   before share T: small steps first, as in progressive resizing
    decaying      with a probability that falls linearly to 0 and is q on average

A small step shows 2 x 2 means. The teacher sees full images in every step. The schedule depends on
seed and step alone: all processes have the same.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.checks import one_of
from doublure.core.protocols import Batch, Source, Stream, StreamContext
from doublure.core.seeding import child

InterleavingSchedule = Literal["random", "alternate", "progressive", "decaying"]


def halve(
    images: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels half_height half_width"]:
    """Return the means of 2 x 2 pixels."""
    return F.avg_pool2d(images, 2)


def small_probability(
    step: int, steps: int, share: float, full_tail: float, schedule: InterleavingSchedule
) -> float:
    """Return how likely a step is to be small; 0 or 1 where the schedule leaves nothing to chance.

    Args:
        share: of all steps, that are small.
        full_tail: of all steps, at the end, that are full.
    """
    small = math.floor(share * steps)
    head = steps - round(full_tail * steps)
    if step >= head or small == 0:
        return 0.0
    if schedule == "progressive":
        return float(step < small)
    if schedule == "alternate":  # whole numbers, so that there are exactly as many
        return float((step + 1) * small // head > step * small // head)
    mean = min(1.0, small / head)
    if schedule == "random":
        return mean
    left = 1 - step / head
    if mean <= 0.5:
        return 2 * mean * left
    return 1.0 if mean == 1 else min(1.0, left / (2 * (1 - mean)))


@dataclass(frozen=True, kw_only=True)
class Interleaved:
    """Source: in some steps the student sees images of half the size.

    Args:
        source: what is shown.
        share: of the steps, that are small.
        schedule: which ones: random, alternate, progressive or decaying.
        full_tail: share of the steps, at the end, that are full.
    """

    source: Source
    share: float = 0.3
    schedule: InterleavingSchedule = "random"
    full_tail: float = 0.1

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, get_args(InterleavingSchedule))
        if not 0 <= self.share < 1:
            raise ValueError(f"share must lie in [0, 1), got {self.share}")
        if not 0 <= self.full_tail <= 1 - self.share:
            raise ValueError(
                f"full_tail must lie in [0, {1 - self.share:g}], beside a share of {self.share:g} "
                f"of small steps, got {self.full_tail}"
            )

    @property
    def resizes(self) -> bool:
        return self.share > 0

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> Stream:
        if context.contract.normalisation is None:
            raise ValueError("interleaving is for images, which have a size to halve; leave it out")
        height, width = context.contract.size
        if self.share > 0 and (height % 2 or width % 2):
            raise ValueError(
                f"interleaving halves images, and {height} x {width} has an odd side; "
                "take an even --size"
            )
        # What is shown is what the source shows alone, image by image.
        inner = self.source.open(context, teacher, rng)
        return InterleavedStream(inner, self, context, child(rng, "interleaved"))


class InterleavedStream:
    """A stream whose student's view is halved in some steps; held-out images are full."""

    def __init__(
        self, inner: Stream, settings: Interleaved, context: StreamContext, rng: torch.Generator
    ) -> None:
        self._inner, self._settings, self._context, self._rng = inner, settings, context, rng

    def is_small(self, step: int) -> bool:
        """Whether a step shows images of half the size."""
        settings = self._settings
        if self._context.split != "train":
            return False
        likely = small_probability(
            step, self._context.steps, settings.share, settings.full_tail, settings.schedule
        )
        return float(torch.rand((), generator=child(self._rng, step))) < likely

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch = self._inner.draw(step, student)
        small = self.is_small(step)
        metrics = {**batch.metrics, "small_steps": torch.tensor(float(small))}
        if not small:
            return dataclasses.replace(batch, metrics=metrics)
        if batch.mask is not None or (batch.labels is not None and batch.labels.dim() > 2):
            raise ValueError(
                "interleaving has no rule for masks or label maps; interleave a source without"
            )
        views = {**batch.views, "student": halve(batch.images)}
        return dataclasses.replace(
            batch, views=views, size_factor=batch.size_factor / 2, metrics=metrics
        )

    def state_dict(self) -> dict[str, Any]:
        return {"source": self._inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state["source"])
