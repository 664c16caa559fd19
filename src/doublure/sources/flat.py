"""Flat images: one random colour per image, or a linear gradient between two colours.

A control experiment: a transfer set with only colour, without edges and texture.
x(p) = (1 - t) a + t b with a, b ~ U(0, 1) per channel; t goes from 0 to 1 across the image along
a random direction. One colour is the case a = b.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.protocols import StreamContext
from doublure.sources.procedural import ProceduralStream

CARD = Card(paper="A control of this project; no paper proposes it", needs=("logits",))


def linear_gradient(
    start: Float[Tensor, "batch channels"],
    end: Float[Tensor, "batch channels"],
    angle: Float[Tensor, " batch"],
    size: tuple[int, int],
) -> Float[Tensor, "batch channels {size[0]} {size[1]}"]:
    """Return images with a gradient between two colours along `angle`, in radians from the x axis.

    The first and the last pixel along the direction have exactly the two colours.
    """
    height, width = (torch.arange(n, device=start.device, dtype=start.dtype) for n in size)
    along = (
        angle.cos()[:, None, None] * (width - width.mean())
        + angle.sin()[:, None, None] * (height - height.mean())[:, None]
    )
    reach = along.amax((1, 2), keepdim=True)
    # An image of one pixel has no direction: its colour is the mean of the two.
    t = 0.5 + 0.5 * along / torch.where(reach > 0, reach, 1.0)
    return torch.lerp(start[:, :, None, None], end[:, :, None, None], t[:, None])


@dataclass(frozen=True, kw_only=True)
class Flat:
    """Source: one random colour per image.

    Args:
        gradient: a linear gradient between two random colours instead.
    """

    gradient: bool = False

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> ProceduralStream:
        contract = context.contract

        def paint(num_images: int, rng: torch.Generator) -> Tensor:
            shape = (num_images, 2 * contract.channels + 1)
            drawn = torch.rand(shape, generator=rng, device=rng.device)
            start, end = drawn[:, : contract.channels], drawn[:, contract.channels : -1]
            if not self.gradient:
                return start[:, :, None, None].expand(-1, -1, *contract.size).contiguous()
            return linear_gradient(start, end, 2 * math.pi * drawn[:, -1], contract.size)

        return ProceduralStream(paint, context, rng)
