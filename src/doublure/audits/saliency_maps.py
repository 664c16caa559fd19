"""Saliency maps: how much each pixel of an image matters to the score f of one class.

    x~ = m x + (1 - m) b        a perturbed image: mask m in [0, 1], baseline b

occlusion              mean of f(x) - f(x~) over the windows that cover a pixel
RISE                   f(x~) of random masks M, regressed on each pixel of M
LIME                   weighted ridge regression of f(x~) on random segments that are on or off
extremal perturbation  the mask of a given area that keeps f(x~) largest, by gradient steps
gradient x input       (x - b) grad f(x)
integrated gradients   (x - b) times the mean of grad f on the way from b to x

A larger value is more relevant to the class. A map of one image at a time: [height, width].
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

# The score of one class, an image each.
Answer = Callable[[Float[Tensor, "batch channels height width"]], Float[Tensor, " batch"]]
Image = Float[Tensor, "channels height width"]
Map = Float[Tensor, "height width"]
Masks = Float[Tensor, "count height width"]
Estimator = Literal["paper", "conditional", "centred"]

# Of extremal perturbation: the weight of the area at the start, and how much it grows to the end.
_AREA_WEIGHT, _AREA_GROWTH, _MASK_RATE = 10.0, 16.0, 0.1


def perturb(
    image: Float[Tensor, "channels height width"],
    baseline: Float[Tensor, "channels height width"],
    masks: Float[Tensor, "count height width"],
) -> Float[Tensor, "count channels height width"]:
    """Return m x + (1 - m) b for each mask."""
    return baseline + masks[:, None] * (image - baseline)


def masked_scores(
    answer: Answer,
    image: Float[Tensor, "channels height width"],
    baseline: Float[Tensor, "channels height width"],
    masks: Float[Tensor, "count height width"],
    batch_size: int,
) -> Float[Tensor, " count"]:
    """Return f of each perturbed image, in float64 on the CPU."""
    with torch.no_grad():
        parts = [
            answer(perturb(image, baseline, part.to(image))).double().cpu()
            for part in torch.split(masks, batch_size)
        ]
    return torch.cat(parts)


def occlusion_windows(
    size: tuple[int, int], window: int, stride: int
) -> Float[Tensor, "count height width"]:
    """Return 1 inside and 0 outside of each window; the last ones are cut at the border."""
    if not 1 <= window <= min(size):
        raise ValueError(f"window must lie in [1, {min(size)}], got {window}")
    if not 1 <= stride <= window:
        raise ValueError(
            f"stride must lie in [1, {window}], the window's side, or pixels are left out; "
            f"got {stride}"
        )
    inside = []
    for side in size:
        starts = torch.arange(0, side - window + stride, stride)[:, None]
        at = torch.arange(side)
        inside.append(((at >= starts) & (at < starts + window)).double())
    rows, columns = inside
    return torch.einsum("ih,jw->ijhw", rows, columns).flatten(0, 1)


def occlusion_map(
    whole: float, scores: Float[Tensor, " count"], windows: Float[Tensor, "count height width"]
) -> Float[Tensor, "height width"]:
    """Return the mean drop f(x) - f(x~) over the windows that cover each pixel.

    Args:
        whole: f(x).
        scores: f with each window put to the baseline.
    """
    return torch.einsum("n,nhw->hw", whole - scores, windows) / windows.sum(0)


def rise_masks(
    count: int, size: tuple[int, int], cells: int, keep: float, rng: torch.Generator
) -> Float[Tensor, "count height width"]:
    """Return random smooth masks: a grid of zeros and ones, enlarged, shifted by part of a cell.

    Args:
        cells: of the grid, along either side.
        keep: probability of a one.
    """
    sides = [-(-side // cells) for side in size]
    grid = (torch.rand(count, 1, cells, cells, generator=rng) < keep).float()
    whole = F.interpolate(grid, [(cells + 1) * side for side in sides], mode="bilinear")[:, 0]
    down, right = (torch.randint(side, (count, 1), generator=rng) for side in sides)
    rows, columns = down + torch.arange(size[0]), right + torch.arange(size[1])
    each = torch.arange(count)[:, None, None]
    return whole[each, rows[:, :, None], columns[:, None, :]]


def rise_map(
    scores: Float[Tensor, " count"],
    masks: Float[Tensor, "count height width"],
    keep: float,
    estimator: Estimator,
) -> Float[Tensor, "height width"]:
    """Return the map of random masks and the scores under them.

    Args:
        estimator: "paper" is sum f M / (N p); "conditional" divides by sum M of each pixel, which
            corrects uneven coverage; "centred" is cov(f, M) / (p (1 - p)), of a linear f with
            independent pixels the exact w (x - b).
    """
    masks = masks.double()
    if estimator == "centred":
        apart = masks - masks.mean(0)
        lifted = scores - scores.mean()
        return torch.einsum("n,nhw->hw", lifted, apart) / (len(masks) * keep * (1 - keep))
    total = torch.einsum("n,nhw->hw", scores, masks)
    return total / (len(masks) * keep if estimator == "paper" else masks.sum(0))


def grid_segments(size: tuple[int, int], cells: int) -> Int64[Tensor, "height width"]:
    """Return which of cells x cells rectangles each pixel is in."""
    rows, columns = (torch.arange(side) * cells // side for side in size)
    return rows[:, None] * cells + columns


def random_segments(
    count: int, num_segments: int, rng: torch.Generator
) -> Bool[Tensor, "count segments"]:
    """Return which segments are on, each with probability one half."""
    return torch.rand(count, num_segments, generator=rng) < 0.5


def lime_coefficients(
    scores: Float[Tensor, " count"],
    on: Bool[Tensor, "count segments"],
    width: float,
    ridge: float,
) -> Float[Tensor, " segments"]:
    """Return the coefficient of each segment: ridge regression, weighted towards the whole image.

    The weight of a sample is exp(-d^2 / width^2), d the cosine distance of `on` to all on.
    """
    x = on.double()
    distance = 1 - x.mean(1).sqrt()
    weights = torch.exp(-(distance**2) / width**2)
    weights = weights / weights.sum()
    x = x - weights @ x
    y = scores - weights @ scores
    weighed = x * weights[:, None]
    # The penalty counts as so many samples.
    penalty = ridge / len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    solved: Tensor = torch.linalg.solve(weighed.T @ x + penalty, weighed.T @ y)
    return solved


def gradients(
    answer: Answer, images: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch channels height width"]:
    """Return the gradient of f at each image; the network's own gradients stay as they are."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        (found,) = torch.autograd.grad(answer(images).sum(), [images])
    return found


def gradient_times_input(
    answer: Answer,
    image: Float[Tensor, "channels height width"],
    baseline: Float[Tensor, "channels height width"],
) -> Float[Tensor, "height width"]:
    """Return (x - b) grad f(x), summed over channels; with a black b it is gradient x input."""
    return ((image - baseline) * gradients(answer, image[None])[0]).sum(0).double().cpu()


def integrated_gradients(
    answer: Answer,
    image: Float[Tensor, "channels height width"],
    baseline: Float[Tensor, "channels height width"],
    steps: int,
    batch_size: int,
) -> Float[Tensor, "height width"]:
    """Return (x - b) times the mean gradient on the line from b to x, by Gauss-Legendre points."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    points = torch.from_numpy((1 + nodes) / 2).to(image)
    mean = torch.zeros_like(image)
    line = baseline + points.view(-1, 1, 1, 1) * (image - baseline)
    shares = torch.from_numpy(weights / 2).to(image)
    for part, share in zip(
        torch.split(line, batch_size), torch.split(shares, batch_size), strict=True
    ):
        mean += torch.einsum("n,nchw->chw", share, gradients(answer, part))
    return ((image - baseline) * mean).sum(0).double().cpu()


def extremal_masks(
    answer: Answer,
    image: Float[Tensor, "channels height width"],
    baseline: Float[Tensor, "channels height width"],
    areas: Sequence[float],
    cells: int,
    iterations: int,
) -> Float[Tensor, "areas height width"]:
    """Return for each area the mask of about that area that keeps f(x~) largest.

        maximise  f(x~(m)) - lambda mean (sort(m) - step(area))^2,     m = U c U', c in [0, 1]

    c is a grid of cells, U bilinear interpolation; lambda grows over the iterations.
    """
    rows, columns = (_bilinear(side, cells).to(image) for side in image.shape[1:])
    grid = torch.full((len(areas), cells, cells), 0.5).to(image).requires_grad_()
    at = torch.linspace(0, 1, image[0].numel()).to(image)
    wanted = torch.stack([(at > 1 - area).to(image) for area in areas])
    optimizer = torch.optim.Adam([grid], lr=_MASK_RATE)
    with torch.enable_grad():
        for i in range(iterations):
            masks = rows @ grid @ columns.T
            weight = _AREA_WEIGHT * _AREA_GROWTH ** (i / iterations)
            off = (masks.flatten(1).sort(1).values - wanted).square().mean(1)
            loss = (weight * off - answer(perturb(image, baseline, masks))).sum()
            (grid.grad,) = torch.autograd.grad(loss, [grid])
            optimizer.step()
            with torch.no_grad():
                grid.clamp_(0, 1)
    return (rows @ grid.detach() @ columns.T).double().cpu()


def _bilinear(side: int, cells: int) -> Float[Tensor, "side cells"]:
    """Return the matrix that enlarges `cells` values to `side`."""
    return F.interpolate(torch.eye(cells)[None], side, mode="linear")[0].T
