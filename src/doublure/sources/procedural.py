"""Images made from random numbers alone: a fresh batch for each step, with nothing to remember."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.protocols import Batch, Site, image_batch
from doublure.core.seeding import child

Painter = Callable[[int, torch.Generator], Tensor]


class ProceduralStream:
    """A stream that paints each batch from (seed, split, rank, step).

    Args:
        paint: makes that many images from a generator on the site's device.
    """

    def __init__(self, paint: Painter, site: Site, rng: torch.Generator) -> None:
        self._paint = paint
        self._site = site
        self._rng = rng

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        site = self._site
        rng = child(self._rng, site.split, site.rank, step, device=site.device)
        return image_batch(self._paint(site.batch_size, rng))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"a procedural stream has no state, got {sorted(state)}")
