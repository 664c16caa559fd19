"""Views: differentiable shifts and flips of images, before the teacher."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def shift_and_flip(
    images: Float[Tensor, "batch channels height width"],
    offsets: Int[Tensor, "2 batch"],
    flips: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Return images shifted by whole pixels, filled with black, and flipped horizontally.

    Args:
        offsets: rows and columns of each shift.
        flips: 1 for images that are flipped, 0 for others.
    """
    height, width = images.shape[2:]
    margin = int(offsets.abs().max()) if offsets.numel() else 0
    padded = F.pad(images, (margin,) * 4)
    rows = torch.arange(height, device=images.device) + margin - offsets[0][:, None]
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    columns = torch.where(flips[:, None] > 0, width - 1 - columns, columns)
    columns = columns + margin - offsets[1][:, None]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
