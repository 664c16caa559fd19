"""Diagnostics of a transfer set: pure functions of the teacher's outputs for its images.

Logits z [n, C], p = softmax(z), h the histogram of argmax z, s = h / n; f penultimate features
[n, d]; m, v mean and variance of what enters a BatchNorm that stores m_T, v_T and has eps e.

    class_entropy       -sum_c s_c log s_c / log C
    min_class_share     C min_c s_c
    uncovered           classes with fewer than 5 images
    pair_coverage       share of ordered pairs (top-1, top-2) seen max(3, n / (20 C^2)) times
    mutual_information  [H(mean p) - mean H(p)] / log C
    near_boundary       share of images whose two largest p are less than 0.3 apart
    bn_distance         mean of (m - m_T)^2 / (v_T + e) + |log((v + e) / (v_T + e))| / 2, over the
                        channels of all BatchNorms
    bn_divergence       KL( N(m_T, v_T + e) || N(m, v + e) ), mean over the channels of a
                        BatchNorm, then over BatchNorms: `nets.batchnorm_statistics.gaussian_kl`
    feature_rank        (sum l)^2 / sum l^2 of the eigenvalues l of the covariance of f
    feature_coverage    share of the clusters of a reference stream's f that hold an image
    duplicates          share of images whose nearest neighbour in f has a cosine above 0.999

Everything counted is counted for several sets at once: the set itself and resamplings of it, which
tell how far a figure would move with other images. "Relative entropy" in the paper is class_entropy
here, a normalised Shannon entropy and no divergence; from n images it comes out too low by about
`entropy_bias`, the term of Miller and Madow.

Frank, Davis: What Makes a Good Dataset for Knowledge Distillation?, arXiv:2411.12817, for
class_entropy; Haroush, Hubara, Hoffer, Soudry: The Knowledge Within, arXiv:1912.01274, for
bn_divergence, the similarity of a set to what a network was trained on; the others are ours.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

# With more classes most pairs never occur; only each class' most frequent partners count.
_ALL_PAIRS_UP_TO = 50
_PARTNERS = 10
# Rows of a matrix of cosines in memory at once.
_BLOCK = 1024


def class_entropy(histogram: Num[Tensor, "*sets classes"]) -> Float[Tensor, "*sets"]:
    """Return the entropy of the class shares over its maximum, in [0, 1]; 1 for one class."""
    classes = histogram.shape[-1]
    if classes < 2:
        return torch.ones(histogram.shape[:-1], dtype=torch.float64)
    entropy: Tensor = torch.special.entr(_shares(histogram)).sum(-1)
    return entropy / math.log(classes)


def entropy_bias(histogram: Num[Tensor, "*sets classes"]) -> Float[Tensor, "*sets"]:
    """Return the bias of class_entropy from the finite number of images."""
    classes = histogram.shape[-1]
    if classes < 2:
        return torch.zeros(histogram.shape[:-1], dtype=torch.float64)
    seen = (histogram > 0).sum(-1).double()
    images = histogram.double().sum(-1).clamp(min=1)
    return (seen - 1).clamp(min=0) / (2 * images * math.log(classes))


def min_class_share(histogram: Num[Tensor, "*sets classes"]) -> Float[Tensor, "*sets"]:
    """Return the rarest class' share over 1 / C, in [0, 1]."""
    return histogram.shape[-1] * _shares(histogram).amin(-1)


def uncovered(histogram: Num[Tensor, "*sets classes"], least: int) -> Int[Tensor, "*sets"]:
    """Return the number of classes with fewer than `least` images."""
    return (histogram < least).sum(-1)


def count_pairs(
    logits: Float[Tensor, "images classes"], weights: Float[Tensor, "sets images"]
) -> tuple[Int[Tensor, " pairs"], Float[Tensor, "sets pairs"]]:
    """Return the ordered pairs (top-1, top-2) that occur, as top-1 C + top-2, with counts.

    Only pairs that occur are listed: with a thousand classes a full table has a million cells.
    """
    classes = logits.shape[1]
    if classes < 2:
        return torch.empty(0, dtype=torch.int64), weights.new_zeros((len(weights), 0))
    first, second = logits.topk(2, dim=-1).indices.unbind(-1)
    return merge_pairs(first * classes + second, weights)


def merge_pairs(
    keys: Int[Tensor, " items"], counts: Float[Tensor, "sets items"]
) -> tuple[Int[Tensor, " pairs"], Float[Tensor, "sets pairs"]]:
    """Return each key once, in order, with the sums of its counts."""
    merged, place = torch.unique(keys, return_inverse=True)
    return merged, counts.new_zeros((len(counts), len(merged))).index_add(1, place, counts)


def pair_coverage(
    keys: Int[Tensor, " pairs"], counts: Num[Tensor, "sets pairs"], classes: int
) -> Float[Tensor, " sets"]:
    """Return the share of ordered pairs of classes with enough images.

    With more than 50 classes, among the ten most frequent partners of each class.
    """
    if classes < 2:
        return torch.ones(len(counts), dtype=torch.float64)
    partners = classes - 1
    if classes > _ALL_PAIRS_UP_TO:
        partners = min(partners, _PARTNERS)
    least = (counts.double().sum(-1) / (20 * classes**2)).clamp(min=3)
    enough = (counts >= least[:, None]).double()
    # The pairs of a class seen often enough are its most frequent ones: no need to sort.
    of_class = torch.zeros(len(counts), classes, dtype=torch.float64)
    of_class.index_add_(1, keys // classes, enough)
    return of_class.clamp(max=partners).sum(-1) / (classes * partners)


def answer_entropy(log_p: Float[Tensor, "images classes"]) -> Float[Tensor, " images"]:
    """Return the entropy of each prediction over its maximum, in [0, 1], from log-probabilities."""
    if log_p.shape[-1] < 2:
        return torch.zeros_like(log_p[:, 0])
    # Not p log p: a probability of zero has a logarithm of minus infinity.
    entropy: Tensor = torch.special.entr(log_p.exp()).sum(-1)
    return entropy / math.log(log_p.shape[-1])


def mutual_information(
    mean_answer: Float[Tensor, "*sets classes"], mean_entropy: Float[Tensor, "*sets"]
) -> Float[Tensor, "*sets"]:
    """Return the mutual information of image and class under the teacher, in [0, 1].

    Args:
        mean_answer: the mean of p over the images.
        mean_entropy: the mean of `answer_entropy`.
    """
    classes = mean_answer.shape[-1]
    if classes < 2:
        return torch.zeros_like(mean_entropy)
    marginal: Tensor = torch.special.entr(mean_answer).sum(-1) / math.log(classes)
    # Rounding may give a negative value if all predictions are equal.
    return (marginal - mean_entropy).clamp(min=0)


def margins(p: Float[Tensor, "images classes"]) -> Float[Tensor, " images"]:
    """Return the difference of the two largest probabilities of each prediction."""
    if p.shape[-1] < 2:
        return torch.ones_like(p[:, 0])
    first, second = p.topk(2, dim=-1).values.unbind(-1)
    return first - second


def bn_distance(
    mean: Float[Tensor, "*sets channels"],
    variance: Float[Tensor, "*sets channels"],
    stored_mean: Float[Tensor, " channels"],
    stored_variance: Float[Tensor, " channels"],
    eps: float,
) -> Float[Tensor, "*sets channels"]:
    """Return the distance of each channel's statistics from those stored in the network."""
    scale = stored_variance + eps
    return (mean - stored_mean).square() / scale + 0.5 * ((variance + eps) / scale).log().abs()


def feature_rank(features: Float[Tensor, "images features"]) -> float:
    """Return the effective rank of the features: 1 for one direction, d for d equal ones."""
    centred = features.double() - features.double().mean(0)
    covariance = centred.T @ centred / len(features)
    # sum l is the trace and sum l^2 the squared Frobenius norm.
    squared = covariance.square().sum()
    return 0.0 if squared == 0 else (covariance.trace().square() / squared).item()


def has_duplicate(
    features: Float[Tensor, "images features"], cosine: float
) -> Bool[Tensor, " images"]:
    """Return True for images with another one closer than `cosine`."""
    unit = F.normalize(features.float(), dim=-1)
    near = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    for start in range(0, len(unit), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit.T
        rows = torch.arange(len(cosines), device=unit.device)
        cosines[rows, rows + start] = -1.0
        near[start : start + _BLOCK] = cosines.amax(-1) > cosine
    return near


def nearest_centre(
    features: Float[Tensor, "images features"], centres: Float[Tensor, "clusters features"]
) -> Int[Tensor, " images"]:
    """Return the cluster of each image."""
    return torch.cdist(features.double(), centres.double()).argmin(-1)


def _shares(histogram: Tensor) -> Tensor:
    return histogram.double() / histogram.double().sum(-1, keepdim=True).clamp(min=1)
