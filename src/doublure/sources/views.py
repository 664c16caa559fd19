"""Views: images shifted and mirrored, differentiably, before the teacher is asked about them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def shift_and_flip(
    images: Float[Tensor, "batch channels height width"],
    offsets: Int[Tensor, "2 batch"],
    flips: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Return images moved by whole pixels, black where they came from, and mirrored.

    Args:
        offsets: rows and columns by which each is moved.
        flips: 1 for those that are mirrored, 0 for others.
    """
    height, width = images.shape[2:]
    most = int(offsets.abs().max()) if offsets.numel() else 0
    padded = F.pad(images, (most,) * 4)
    rows = torch.arange(height, device=images.device) + most - offsets[0][:, None]
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    columns = torch.where(flips[:, None] > 0, width - 1 - columns, columns)
    columns = columns + most - offsets[1][:, None]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
