"""A stream of images generated from random numbers: a new batch at each step, and no state."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.protocols import Batch, StreamContext, image_batch
from doublure.core.seeding import child

Painter = Callable[[int, torch.Generator], Tensor]


class ProceduralStream:
    """A stream that paints each batch from (seed, split, rank, step).

    Args:
        paint: returns the given number of images, from a generator on the context's device.
    """

    def __init__(self, paint: Painter, context: StreamContext, rng: torch.Generator) -> None:
        self._paint = paint
        self._context = context
        self._rng = rng

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        context = self._context
        rng = child(self._rng, context.split, context.rank, step, device=context.device)
        return image_batch(self._paint(context.batch_size, rng))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"a procedural stream has no state, got {sorted(state)}")
