"""Convolutions of half-size images by pooled filters, whose gradients reach the full ones.

An odd kernel of k taps at distance 1 becomes one of k' = (k + 1) / 2 taps at distance 2. "split"
gives each tap to the nearest ones of those, in equal parts where there are two:

    W' = P W P^T,   P_ij = max(0, 1 - |j - 2 i| / 2);   k = 3: P = [[1, 1/2, 0], [0, 1/2, 1]]

The columns of P sum to 1 and keep first moments, so that on an image affine in its coordinates the
pooled filter on 2 x 2 means answers with what the full filter answers at the corner of four
of its pixels. "mean" and "max" pool windows of k - k' + 1 taps. A padding p becomes p zeros in all,
p // 2 on one side and the rest on the other, by turns from layer to layer: no layer more shifts by
half a pixel, and every map has the size it would have with the full filter.

Differs from the paper: its body could not be read; of the pooling only that there is one is known.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card

CARD = Card(
    paper="Poulos, Nouri, Moshovos: Training CNNs faster with Dynamic Input and Kernel "
    "Downsampling, arXiv:1910.06548",
    needs=("nothing",),
    reported={
        "training time saved, at most, %": 23,
        "relative increase of the error, at most, %": 2.9,
    },
)

Pooling = Literal["split", "mean", "max"]


def pooling_matrix(kernel: int) -> Float[Tensor, "small kernel"]:
    """Return P, which gives each of an odd number of taps to those at twice the distance."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, got {kernel}")
    centres = 2 * torch.arange((kernel + 1) // 2)[:, None]
    return (1 - (torch.arange(kernel) - centres).abs() / 2).clamp(min=0)


def pooled_weight(
    weight: Float[Tensor, "outputs inputs height width"], kind: Pooling
) -> Float[Tensor, "outputs inputs small_height small_width"]:
    """Return the filters for images of half the size; each filter is pooled on its own."""
    if kind == "split":
        rows, columns = (pooling_matrix(size).to(weight) for size in weight.shape[2:])
        return rows @ weight @ columns.T
    window = [size // 2 + 1 for size in weight.shape[2:]]
    pool = F.avg_pool2d if kind == "mean" else F.max_pool2d
    return pool(weight, window, 1)


def can_be_pooled(layer: nn.Conv2d) -> bool:
    """Whether a layer's filters can be pooled: odd, not dilated, padded with a number of zeros."""
    odd = all(size % 2 for size in layer.kernel_size)
    plain = all(step == 1 for step in layer.dilation) and layer.padding_mode == "zeros"
    return odd and plain and not isinstance(layer.padding, str)


def pooled_conv2d(
    images: Float[Tensor, "batch inputs height width"],
    layer: nn.Conv2d,
    kind: Pooling,
    *,
    more_before: bool,
) -> Float[Tensor, "batch outputs small_height small_width"]:
    """Return what a layer answers to images of half the size by its pooled filters.

    Args:
        more_before: an odd number of zeros has one more above and on the left.
    """
    padding = []
    for zeros in reversed(layer.padding):
        assert isinstance(zeros, int)
        before = zeros // 2 + (zeros % 2 if more_before else 0)
        padding += [before, zeros - before]
    weight = pooled_weight(layer.weight, kind)
    return F.conv2d(F.pad(images, padding), weight, layer.bias, layer.stride, groups=layer.groups)
