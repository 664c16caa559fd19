"""Sized: what another source makes, at a size of its own in place of the network's.

A network that answers every pixel takes images of almost any size. Images that are made, by a
generator or by optimisation, cost as many times less as they are smaller.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from doublure.core.protocols import Source, Stream, StreamContext


@dataclass(frozen=True, kw_only=True)
class Sized:
    """Source: another one, asked for images of this size.

    Args:
        source: what makes the images.
        size: their height and width; None for the network's own.
    """

    source: Source
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size}")

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> Stream:
        smaller = replace(context.contract, size=self.size or context.contract.size)
        return self.source.open(replace(context, contract=smaller), teacher, rng)
