"""Quality of generated images: similarity to real ones, without copies of training images.

Frechet distance of two samples of features, as of two normal distributions:
    |m - m'|^2 + tr(C + C' - 2 (C^(1/2) C' C^(1/2))^(1/2))
In the features of an Inception network trained on ImageNet it is called FID; in those of any other
network its values are not comparable with published ones.

Cramer-Wold distances of codes and of pixels: see `tasks.generation.cramer_wold`.

Nearness: the median distance of an image to the nearest one of the training set, as a multiple of
that of held-out real images. Far below 1, the generator repeats its training set.

Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter: arXiv:1706.08500.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.core.findings import Finding
from doublure.tasks.generation.cramer_wold import cramer_wold_distance, sample_bandwidth

# Below this, images count as copies; an exact copy has 0.
_COPIES = 0.5


def frechet_distance(
    one: Float[Tensor, "rows features"], other: Float[Tensor, "columns features"]
) -> Float[Tensor, ""]:
    """Return the squared Frechet distance of the normal distributions that fit two samples."""
    one, other = one.double(), other.double()
    means = (one.mean(0) - other.mean(0)).square().sum()
    first, second = (_covariance(sample) for sample in (one, other))
    root = _root(first)
    # Rounding makes some eigenvalues of products of degenerate covariances slightly negative.
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    apart: Tensor = means + first.trace() + second.trace() - 2 * shared
    return apart


def code_distances(
    samples: Mapping[str, Float[Tensor, "rows latent"]], held_out: Float[Tensor, "columns latent"]
) -> dict[str, float]:
    """Return the exact, unbiased Cramer-Wold distance of each sample of codes to real ones."""
    return _distances(samples, held_out, exact=True)


def image_distances(
    samples: Mapping[str, Float[Tensor, "rows ..."]], held_out: Float[Tensor, "columns ..."]
) -> dict[str, float]:
    """Return the unbiased Cramer-Wold distance of the pixels of each sample to real images'."""
    flat = {name: sample.flatten(1) for name, sample in samples.items()}
    return _distances(flat, held_out.flatten(1), exact=False)


def _distances(samples: Mapping[str, Tensor], held_out: Tensor, *, exact: bool) -> dict[str, float]:
    bandwidth = sample_bandwidth(held_out.std().item(), len(held_out))
    return {
        name: cramer_wold_distance(
            sample.double(), held_out.double(), bandwidth, exact=exact, unbiased=True
        ).item()
        for name, sample in samples.items()
    }


def nearest_distances(
    images: Float[Tensor, "batch ..."], among: Float[Tensor, "count ..."]
) -> Float[Tensor, " batch"]:
    """Return the root mean squared difference of each image to the nearest one `among` others."""
    flat = images.flatten(1)
    apart = torch.cdist(flat, among.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    nearest: Tensor = apart.min(1).values / flat.shape[1] ** 0.5
    return nearest


def nearness(
    made: Float[Tensor, "batch ..."],
    train: Float[Tensor, "count ..."],
    held_out: Float[Tensor, "apart ..."],
) -> Finding:
    """Return whether generated images are copies of training images."""
    ours, usual = (nearest_distances(x, train).median().item() for x in (made, held_out))
    ratio = ours / usual if usual > 0 else float(ours > 0)
    copies = ratio < _COPIES
    summary = (
        f"a generated image is {ratio:.2f} times as far from the nearest image it learned from as "
        "a real image that it did not learn from"
    )
    return Finding(
        name="nearness",
        verdict="warn" if copies else "ok",
        summary=summary,
        tag="measured",
        measurements={"ratio": ratio, "generated": ours, "held_out": usual},
    )


def _covariance(sample: Tensor) -> Tensor:
    return torch.cov(sample.T).reshape(sample.shape[1], sample.shape[1])


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root
