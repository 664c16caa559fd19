"""How maps and their scores are compared: similarity, deletion curves, ranks, intervals.

A deletion curve takes a map's tiles away, the most relevant first (MoRF) or the least (LeRF), and
puts a baseline b there. Its end is f(b), which differs by baseline, so that areas under it compare
across baselines only once normalised:
    (f - f(b)) / (f(x) - f(b))
Insertion from b, the most relevant first, passes through LeRF's images in reverse order: its area
is LeRF's, and it is not measured again.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from doublure.audits.saliency_maps import Answer, masked_scores

Array = NDArray[np.float64]
# Share of pixels that count as the map's top, and the side of SSIM's windows.
TOP, _SSIM_SIDE = 0.1, 7


class Estimate(NamedTuple):
    """A median over images with its bootstrap interval."""

    value: float
    low: float
    high: float


def rank_vectors(maps: Float64[np.ndarray, "maps pixels"]) -> Float64[np.ndarray, "maps pixels"]:
    """Return the ranks of each map's pixels, centred and of length 1; zeros of a constant map.

    Spearman's correlation of two maps is the product of their vectors.
    """
    from scipy import stats  # slow to import, so only here

    ranks = stats.rankdata(maps, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    length = np.sqrt((ranks**2).sum(1, keepdims=True))
    unit: Array = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
    return unit


def spearman(
    one: Float64[np.ndarray, "maps pixels"], other: Float64[np.ndarray, "maps pixels"]
) -> Float64[np.ndarray, " maps"]:
    """Return Spearman's rank correlation map by map; 0 where one is constant."""
    products: Array = (rank_vectors(one) * rank_vectors(other)).sum(1)
    return products


def top_overlap(
    one: Float64[np.ndarray, "maps pixels"],
    other: Float64[np.ndarray, "maps pixels"],
    share: float = TOP,
) -> Float64[np.ndarray, " maps"]:
    """Return intersection over union of the most relevant pixels of each pair of maps."""
    count = max(1, round(share * one.shape[1]))
    kept = []
    for maps in (one, other):
        order = np.argsort(-maps, axis=1, kind="stable")[:, :count]
        inside = np.zeros(maps.shape, dtype=bool)
        np.put_along_axis(inside, order, True, axis=1)
        kept.append(inside)
    shared: Array = (kept[0] & kept[1]).sum(1)
    overlap: Array = shared / (2 * count - shared)
    return overlap


def structural_similarity(
    one: Float64[Tensor, "maps height width"], other: Float64[Tensor, "maps height width"]
) -> Float64[Tensor, " maps"]:
    """Return the mean SSIM of each pair of maps, each scaled to [0, 1] first."""
    x, y = (_scaled(maps)[:, None] for maps in (one, other))
    side = min(_SSIM_SIDE, *one.shape[1:])

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, side, stride=1)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2  # of the paper, for values in [0, 1]
    ratio = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return ratio.mean((1, 2, 3))


def _scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


def tile_order(
    saliency: Float[Tensor, "height width"], side: int, rng: torch.Generator
) -> Int64[Tensor, "height width"]:
    """Return the place of each pixel's tile, the most relevant tile 0; ties are drawn by lot."""
    height, width = saliency.shape
    columns = -(-width // side)
    tile = torch.arange(height)[:, None] // side * columns + torch.arange(width) // side
    count = int(tile.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64)
    sums.index_add_(0, tile.flatten(), saliency.double().cpu().flatten())
    means = sums / torch.bincount(tile.flatten(), minlength=count)
    lot = torch.randperm(count, generator=rng)
    order = lot[means[lot].argsort(descending=True, stable=True)]
    places = torch.empty(count, dtype=torch.int64)
    places[order] = torch.arange(count)
    return places[tile]


def deletion_masks(
    order: Int64[Tensor, "height width"], points: int, *, most_first: bool
) -> Float[Tensor, "steps height width"]:
    """Return what is left of the image at each of points + 1 steps: all of it, ..., nothing."""
    count = int(order.max()) + 1
    place = order if most_first else count - 1 - order
    gone = torch.linspace(0, count, points + 1).round()
    return (place >= gone[:, None, None]).float()


def deletion_curve(
    answer: Answer,
    image: Float[Tensor, "channels height width"],
    baseline: Float[Tensor, "channels height width"],
    order: Int64[Tensor, "height width"],
    points: int,
    batch_size: int,
    *,
    most_first: bool,
) -> Float[Tensor, " steps"]:
    """Return f along the deletion of tiles in order, from f(x) to f(b)."""
    masks = deletion_masks(order, points, most_first=most_first)
    return masked_scores(answer, image, baseline, masks, batch_size)


def curve_area(curves: Float64[np.ndarray, "*curves steps"]) -> Float64[np.ndarray, "*curves"]:
    """Return the mean height of curves, by trapezia."""
    total: Array = curves[..., 1:-1].sum(-1) + (curves[..., 0] + curves[..., -1]) / 2
    area: Array = total / (curves.shape[-1] - 1)
    return area


def normalised_area(
    curves: Float64[np.ndarray, "*curves steps"],
) -> Float64[np.ndarray, "*curves"]:
    """Return the area of (f - f(b)) / (f(x) - f(b)); nan where f(b) >= f(x)."""
    start, end = curves[..., 0], curves[..., -1]
    span = np.where(start > end, start - end, np.nan)
    area: Array = (curve_area(curves) - end) / span
    return area


def kendall_tau(one: Float64[np.ndarray, " items"], other: Float64[np.ndarray, " items"]) -> float:
    """Return Kendall's rank correlation of two lists of scores."""
    from scipy import stats  # slow to import, so only here

    return float(stats.kendalltau(one, other).statistic)


def kendall_w(scores: Float64[np.ndarray, "judges items"]) -> float:
    """Return Kendall's concordance: 1 where all judges rank alike, about 0 by chance."""
    from scipy import stats  # slow to import, so only here

    judges, items = scores.shape
    totals = stats.rankdata(scores, axis=1).sum(0)
    return float(12 * ((totals - totals.mean()) ** 2).sum() / (judges**2 * (items**3 - items)))


def order_flips(scores: Float64[np.ndarray, "judges items"]) -> float:
    """Return the share of pairs of items that some judges order one way and some the other."""
    first, second = np.triu_indices(scores.shape[1], 1)
    signs = np.sign(scores[:, first] - scores[:, second])
    return float(((signs.max(0) > 0) & (signs.min(0) < 0)).mean())


def nested_shares(
    vectors: Float64[np.ndarray, "images methods baselines pixels"],
) -> dict[str, float]:
    """Return shares of the variance of maps: between images; within one, of method and baseline.

    Within each image it is a two-way analysis of variance without replication; the residual is
    the interaction. The shares sum to 1.
    """
    methods, baselines = vectors.shape[1:3]
    grand = vectors.mean((0, 1, 2))
    own = vectors.mean((1, 2), keepdims=True)
    method = vectors.mean(2, keepdims=True) - own
    baseline = vectors.mean(1, keepdims=True) - own
    rest = vectors - own - method - baseline
    sums = {
        "image": methods * baselines * ((own - grand) ** 2).sum(),
        "method": baselines * (method**2).sum(),
        "baseline": methods * (baseline**2).sum(),
        "residual": (rest**2).sum(),
    }
    total = sum(sums.values())
    return {name: float(value / total) for name, value in sums.items()}


def baseline_p_value(
    vectors: Float64[np.ndarray, "images methods baselines pixels"],
    rounds: int,
    rng: np.random.Generator,
) -> float:
    """Return how often baselines in random order, image by image and method by method, do as much.

    The null hypothesis: what baseline a map was made with says nothing about the map.
    """
    images, methods, baselines, _ = vectors.shape
    flat = vectors.reshape(images, methods * baselines, -1)
    products = flat @ flat.transpose(0, 2, 1)
    # The baselines' sum of squares is, up to a constant, that of sums over methods.
    each = np.arange(images)[:, None, None, None]

    def strength(order: NDArray[np.int64]) -> float:
        chosen = (order + np.arange(methods)[:, None] * baselines).transpose(0, 2, 1)
        return float(products[each, chosen[..., None], chosen[..., None, :]].sum())

    shape = (images, methods, baselines)
    seen = strength(np.broadcast_to(np.arange(baselines), shape))
    drawn = (strength(rng.random(shape).argsort(-1)) for _ in range(rounds))
    return (1 + sum(value >= seen for value in drawn)) / (1 + rounds)


def bootstrap(
    values: Mapping[str, Array], level: float, rounds: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Return the median over images of each list of values, and its interval; images in common.

    Args:
        level: of all the intervals together (Bonferroni).
    """
    count = len(next(iter(values.values())))
    drawn = rng.integers(count, size=(rounds, count))
    tail = (1 - level) / 2 / len(values)
    made = {}
    for name, column in values.items():
        low, high = np.quantile(np.median(column[drawn], axis=1), (tail, 1 - tail))
        made[name] = Estimate(float(np.median(column)), float(low), float(high))
    return made


def bootstrap_gap(
    one: Array, other: Array, level: float, rounds: int, rng: np.random.Generator
) -> Estimate:
    """Return the difference of the medians of two lists over the same images, and its interval."""
    drawn = rng.integers(len(one), size=(rounds, len(one)))
    gaps = np.median(one[drawn], axis=1) - np.median(other[drawn], axis=1)
    low, high = np.quantile(gaps, ((1 - level) / 2, (1 + level) / 2))
    return Estimate(float(np.median(one) - np.median(other)), float(low), float(high))
