import pytest
import torch

from doublure.tasks.generation.nearness import (
    code_distances,
    frechet_distance,
    image_distances,
    nearest_distances,
    nearness,
)
from tests.tiny import rng


def draw(seed: int, count: int = 400, width: int = 5) -> torch.Tensor:
    return torch.randn((count, width), generator=rng(seed), dtype=torch.float64)


def with_moments(mean: torch.Tensor, covariance: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A sample that has exactly this mean and covariance."""
    sample = draw(seed, width=len(mean))
    sample = sample - sample.mean(0)
    white = sample @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(sample.T))).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_bells_along_the_axes_are_as_far_as_their_means_and_deviations():
    # For diagonal covariances: |m - m'|^2 + sum (s - s')^2.
    means = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([0.5, 1.0, 0.0]).double()
    spreads = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([2.0, 2.0, 0.25]).double()
    one, other = (
        with_moments(m, torch.diag(s.square()), i)
        for i, (m, s) in enumerate(zip(means, spreads, strict=True))
    )
    expected = 0.25 + 4 + 1 + 0 + 0.0625
    assert frechet_distance(one, other).item() == pytest.approx(expected, abs=1e-9)


def test_bells_that_are_turned_against_each_other_agree_with_the_matrix_root():
    from scipy import linalg

    one, other = draw(0) @ draw(1, 5), draw(2) @ draw(3, 5) + 1
    first, second = (torch.cov(x.T).numpy() for x in (one, other))
    root = linalg.sqrtm(first @ second).real
    expected = (one.mean(0) - other.mean(0)).square().sum().item()
    expected += (first + second - 2 * root).trace()
    assert frechet_distance(one, other).item() == pytest.approx(expected, rel=1e-6)


def test_a_sample_is_at_no_distance_from_itself_even_where_it_is_flat():
    flat = torch.cat([draw(0), torch.zeros(400, 2).double()], 1)
    assert frechet_distance(flat, flat).item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(
        frechet_distance(draw(0), draw(1) * 2), frechet_distance(draw(1) * 2, draw(0))
    )


def test_the_nearest_image_is_told_in_units_of_a_pixel():
    black, grey = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.5)
    among = torch.cat([black, torch.ones(1, 1, 4, 4) * 0.75])
    torch.testing.assert_close(
        nearest_distances(torch.cat([black, grey]), among), torch.tensor([0.0, 0.25])
    )


def test_copies_are_warned_of_and_new_images_are_not():
    train, held, new = (torch.rand((40, 1, 4, 4), generator=rng(i)) for i in range(3))
    assert nearness(new, train, held).verdict == "ok"
    copied = nearness(train[:10] + 0.01, train, held)
    assert copied.verdict == "warn"
    assert copied.measurements["ratio"] < 0.5
    assert "times as far" in copied.summary


def test_samples_of_the_same_law_are_nearest():
    held = draw(0, 200)
    apart = code_distances({"same": draw(1, 200), "other": draw(2, 200) + 1}, held)
    assert abs(apart["same"]) < 0.01 < apart["other"]
    images = {name: torch.rand((50, 1, 4, 4), generator=rng(i)) for i, name in enumerate("ab")}
    told = image_distances(images | {"dark": images["a"] * 0.2}, images["b"].clone())
    assert told["a"] < told["dark"]
