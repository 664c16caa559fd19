"""Replay: a pool of batches from an expensive source, which draws new ones only now and then.

`first` batches of the inner source fill a pool before the student's first step; these are drawn
without the student, which is still untrained. Then one new batch is drawn every `every` steps with
the current student (a competing source adapts to it), used at once, and added to the pool. The
images of all other steps are uniform draws from the pool, with replacement.
    batches drawn by step s = min(planned, first + floor(min(s, until * steps) / every))
Images keep their labels. Images are stored as bytes, in a file if the run has a folder, so that
memory does not grow. With several processes, each stores its own share. The held-out split has a
pool of its own, of the first batches only.

The interleaving is that of Adaptive DeepInversion (Yin et al., arXiv:1912.08795): one batch every
50 steps. Differs from the paper: the number of first batches is our choice; the paper does not
report it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive, share
from doublure.core.protocols import Batch, Source, StreamContext, image_batch
from doublure.core.seeding import child
from doublure.sources.image_pool import check_shape, open_pool, to_bytes, to_images

CARD = Card(
    paper=(
        "Yin, Molchanov, Li, Alvarez, Mallya, Hoiem, Jha, Kautz: Dreaming to Distill: Data-free "
        "Knowledge Transfer via DeepInversion, arXiv:1912.08795"
    ),
    needs=("inputs",),
)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Source: a growing pool of another source's batches. Default: the paper's interval.

    Args:
        source: source of the batches.
        every: number of steps between two new batches.
        first: number of batches before the first step.
        capacity: maximum number of images over all processes; a full pool stops growing.
        made_at_once: number of images in a new batch, on each process; None uses the batch size.
        until: share of the steps after which the pool stops growing.
        share: share of the budget for new images, half of it before the first step; it sets `first`
            and `every`. None keeps both.
    """

    source: Source
    every: int = 50
    first: int = 4
    capacity: int = 256_000
    made_at_once: int | None = None
    until: float = 1.0
    share: float | None = None

    def __post_init__(self) -> None:
        for name in ("every", "first", "capacity"):
            positive(name, getattr(self, name))
        if self.made_at_once is not None:
            positive("made_at_once", self.made_at_once)
        share("until", self.until)
        if self.share is not None:
            share("share", self.share)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "ReplayStream":
        return ReplayStream(self, context, teacher, rng)


class ReplayStream:
    """A pool that grows with the steps; a function of (seed, step, state) only."""

    def __init__(
        self,
        settings: Replay,
        context: StreamContext,
        teacher: nn.Module | None,
        rng: torch.Generator,
    ) -> None:
        self._settings, self._context, self._rng = settings, context, rng
        at_once = settings.made_at_once or context.batch_size
        # No more images than the run uses or the pool can hold.
        shown = -(-context.steps * context.batch_size // at_once)
        held = max(1, settings.capacity // (context.world * at_once))
        self._first = min(settings.first, shown, held)
        growing = min(context.steps - 1, int(settings.until * context.steps))
        grown = 0 if context.split == "held_out" else growing // settings.every
        self.planned = min(self._first + grown, held)
        inner = dataclasses.replace(context, batch_size=at_once, steps=self.planned)
        self.stream = settings.source.open(inner, teacher, child(rng, "source"))
        self._pool = open_pool(context, rng, self.planned * at_once)
        self._labels: Tensor | None = None
        self._made = 0
        self._told: dict[str, Tensor] = {}

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        before = len(self._pool)
        due = min(self.planned, self._first + step // self._settings.every)
        while self._made < due:
            self._make(None if self._made < self._first else student)
        count = self._context.batch_size
        rng = child(self._rng, "replay", self._context.split, self._context.rank, step)
        picks = torch.randint(len(self._pool), (count,), generator=rng)
        fresh = torch.arange(before, len(self._pool))[:count]
        if before:  # a new batch is used at once
            picks[: len(fresh)] = fresh
        device = self._context.device
        labels = None
        if self._labels is not None:
            labels = self._labels[picks].to(device, non_blocking=True)
        images = to_images(self._pool.read(picks), device)
        return image_batch(images, labels=labels, metrics=self._metrics())

    def state_dict(self) -> dict[str, Any]:
        return {
            "source": self.stream.state_dict(),
            "pool": self._pool.state_dict(),
            "labels": None if self._labels is None else self._labels.clone(),
            "made": self._made,
            "told": dict(self._told),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state["source"])
        self._pool.load_state_dict(state["pool"])
        self._labels = None if state["labels"] is None else state["labels"].clone()
        self._made, self._told = state["made"], dict(state["told"])

    def _make(self, student: nn.Module | None) -> None:
        batch = self.stream.draw(self._made, student)
        images = to_bytes(batch.images)
        check_shape(images, self._context, "Replay")
        self._pool.append(images)
        if batch.labels is not None:
            made = batch.labels.detach().cpu()
            self._labels = made if self._labels is None else torch.cat([self._labels, made])
        self._told = {name: value.detach().cpu() for name, value in batch.metrics.items()}
        self._made += 1

    def _metrics(self) -> dict[str, Tensor]:
        """Return the size of the pool, and the inner source's metrics of the newest batch."""
        return self._told | {
            "pool_images": torch.tensor(float(len(self._pool))),
            "pool": torch.tensor(self._made / self.planned),
        }
