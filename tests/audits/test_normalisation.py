import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.audits.normalisation import (
    CANDIDATES,
    FirstLayer,
    Normalisation,
    correlation_length,
    enough_filters,
    input_mean,
    photograph_variances,
    rank,
    read_through,
)


def kernels(seed=0, filters=16):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(filters, 3, 3, 3, generator=rng, dtype=torch.float64)


def layer_that_saw(mean, normalisation, seed=0, contrast=1.0):
    """The first layer of a network trained on photographs of that mean, normalised like that."""
    weights = kernels(seed)
    sums = weights.sum((2, 3))
    scale = torch.tensor(normalisation.std, dtype=torch.float64)
    seen = (torch.tensor(mean, dtype=torch.float64) - torch.tensor(normalisation.mean)) / scale
    length = correlation_length((32, 32))
    return FirstLayer(
        kernels=weights,
        kernel_sums=sums,
        means=sums @ seen,
        variances=contrast**2 * photograph_variances(weights, scale, length),
        correlation_length=length,
    )


@given(seed=st.integers(0, 99))
def test_least_squares_finds_the_mean_that_was_seen(seed):
    sums = kernels(seed).sum((2, 3))
    seen = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    mean, covariance = input_mean(sums, sums @ seen, torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(mean, seen, atol=1e-3, rtol=0.0)
    assert covariance.diagonal().sqrt().max() < 1e-3


def test_kernels_that_sum_to_zero_leave_the_mean_unknown():
    rng = torch.Generator().manual_seed(0)
    noise = 1e-8 * torch.randn(16, 3, generator=rng, dtype=torch.float64)
    means = 0.1 * torch.randn(16, generator=rng, dtype=torch.float64)
    _, covariance = input_mean(noise, means, torch.ones(16, dtype=torch.float64))
    assert covariance.diagonal().sqrt().min() > 1e3


def test_a_single_weight_varies_as_its_channel_does():
    weight = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    weight[0, 1] = 2.0
    std = torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64)
    expected = torch.tensor([(2.0 * 0.26 / 0.5) ** 2], dtype=torch.float64)
    torch.testing.assert_close(photograph_variances(weight, std, length=9.6), expected)


def test_the_difference_of_two_neighbours_by_hand():
    weight = torch.tensor([1.0, -1.0], dtype=torch.float64).view(1, 1, 1, 2).repeat(1, 3, 1, 1)
    weight[:, 1:] = 0.0
    std = torch.ones(3, dtype=torch.float64)
    variance = photograph_variances(weight, std, length=2.0)
    expected = 0.26**2 * 2 * (1 - torch.tensor([-0.5], dtype=torch.float64).exp())
    torch.testing.assert_close(variance, expected)


def test_where_all_pixels_agree_only_the_kernel_sum_counts():
    weights = kernels()
    std = torch.ones(3, dtype=torch.float64)
    sums = weights.sum((2, 3))[:, :, None, None]
    torch.testing.assert_close(
        photograph_variances(weights, std, length=1e9),
        photograph_variances(sums, std, length=1.0),
        rtol=1e-6,
        atol=0.0,
    )


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_right_normalisation_gives_the_photographs_back(name):
    reading = read_through(
        layer_that_saw((0.5, 0.4, 0.3), CANDIDATES[name]), name, CANDIDATES[name]
    )
    assert reading.mean == pytest.approx((0.5, 0.4, 0.3), abs=1e-3)
    assert reading.std == pytest.approx(0.26, rel=1e-6)


def test_contrast_is_read_as_standard_deviation():
    first = layer_that_saw((0.49, 0.47, 0.43), CANDIDATES["imagenet"], contrast=0.5)
    reading = read_through(first, "imagenet", CANDIDATES["imagenet"])
    assert reading.std == pytest.approx(0.13, rel=1e-6)


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_right_normalisation_is_never_clearly_worse(name):
    _, known = rank(layer_that_saw((0.49, 0.47, 0.43), CANDIDATES[name]), CANDIDATES[name])
    rivals = {reading.name for reading in known if reading.misfit < 0.5}
    assert name in rivals
    assert rivals <= {name, "imagenet", "cifar10"}


def test_a_dead_filter_changes_nothing():
    first = layer_that_saw((0.49, 0.47, 0.43), CANDIDATES["imagenet"])
    dead = torch.zeros(1, dtype=torch.float64)
    padded = FirstLayer(
        kernels=torch.cat((first.kernels, 1e-9 * first.kernels[:1])),
        kernel_sums=torch.cat((first.kernel_sums, 1e-9 * first.kernel_sums[:1])),
        means=torch.cat((first.means, dead)),
        variances=torch.cat((first.variances, dead)),
        correlation_length=first.correlation_length,
    )
    alone, beside = (
        read_through(layer, "imagenet", CANDIDATES["imagenet"]) for layer in (first, padded)
    )
    assert beside.mean == pytest.approx(alone.mean, abs=1e-3)
    assert beside.std == pytest.approx(alone.std, rel=1e-6)


def test_swapping_red_and_blue_stays_within_what_sets_differ_by():
    imagenet = CANDIDATES["imagenet"]
    reversed_ = Normalisation(mean=imagenet.mean[::-1], std=imagenet.std[::-1])
    first = layer_that_saw((0.485, 0.456, 0.406), imagenet)
    right, swapped = (read_through(first, "", each) for each in (imagenet, reversed_))
    assert swapped.log_likelihood - right.log_likelihood == pytest.approx(0.0, abs=2.3)


def test_a_handful_of_filters_is_too_few():
    first = layer_that_saw((0.5, 0.5, 0.5), CANDIDATES["unit"])
    assert enough_filters(first)
    few = FirstLayer(
        kernels=first.kernels[:5],
        kernel_sums=first.kernel_sums[:5],
        means=first.means[:5],
        variances=first.variances[:5],
        correlation_length=first.correlation_length,
    )
    assert not enough_filters(few)
