import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from doublure.core.protocols import Batch, Outputs, image_batch
from doublure.tasks.generation.cramer_wold import (
    AutoEncoding,
    LatentMatching,
    approximate_kernel,
    cramer_wold_distance,
    exact_kernel,
    normal_bandwidth,
    normality_distance,
    sample_bandwidth,
    squared_distances,
)
from tests.tiny import rng

# Published code gives the distance to the normal as 2 sqrt(pi) d2.
CODE_UNITS = 2 * math.sqrt(math.pi)
KERNELS = {True: exact_kernel, False: approximate_kernel}


def draw(seed: int, count: int = 12, dimensions: int = 4) -> torch.Tensor:
    return torch.randn((count, dimensions), generator=rng(seed), dtype=torch.float64)


def distance(one, other, bandwidth=0.2, *, exact=True, unbiased=False):
    return cramer_wold_distance(one, other, bandwidth, exact=exact, unbiased=unbiased)


def to_normal(codes, bandwidth, *, exact=True, unbiased=False):
    return normality_distance(codes, bandwidth, exact=exact, unbiased=unbiased)


@pytest.mark.parametrize("dimensions", [2, 3, 4, 8, 20, 48, 64])
def test_the_exact_kernel_is_kummers_function(dimensions):
    scaled = torch.linspace(0, 300, 201, dtype=torch.float64)
    expected = torch.from_numpy(special.hyp1f1(0.5, dimensions / 2, -scaled.numpy()))
    torch.testing.assert_close(exact_kernel(scaled, dimensions), expected, atol=2e-7, rtol=0)


def test_in_two_dimensions_the_kernel_is_a_bessel_function_and_in_one_an_exponential():
    scaled = torch.linspace(0, 50, 101, dtype=torch.float64)
    bessel = torch.from_numpy(special.ive(0, scaled.numpy() / 2))
    torch.testing.assert_close(exact_kernel(scaled, 2), bessel, atol=1e-7, rtol=0)
    torch.testing.assert_close(exact_kernel(scaled, 1), torch.exp(-scaled))


@pytest.mark.parametrize(
    ("dimensions", "error"), [(2, 0.215), (4, 0.057), (8, 0.022), (20, 0.0076), (64, 0.0022)]
)
def test_the_approximation_is_off_by_what_is_known_of_it(dimensions, error):
    scaled = torch.linspace(0, 300, 6001, dtype=torch.float64)
    off = (exact_kernel(scaled, dimensions) - approximate_kernel(scaled, dimensions)).abs().max()
    assert off.item() == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("exact", [True, False])
def test_a_kernel_is_one_at_zero_and_falls(exact):
    values = KERNELS[exact](torch.linspace(0, 100, 50, dtype=torch.float64), 6)
    assert values[0].item() == pytest.approx(1, abs=1e-12)
    assert (values.diff() < 0).all()


def test_the_approximation_is_refused_on_a_line():
    with pytest.raises(ValueError, match="needs 2 dimensions, got 1"):
        approximate_kernel(torch.zeros(3), 1)


@pytest.mark.parametrize(("count", "bandwidth"), [(64, 0.2126), (128, 0.1611), (256, 0.1221)])
def test_the_bandwidth_of_normal_samples(count, bandwidth):
    assert normal_bandwidth(count) == pytest.approx(bandwidth, abs=5e-5)


@pytest.mark.parametrize(("count", "bandwidth"), [(64, 0.0202), (128, 0.0153), (256, 0.0116)])
def test_the_bandwidth_of_mnist_is_the_published_one(count, bandwidth):
    assert sample_bandwidth(0.3081, count) == pytest.approx(bandwidth, abs=5e-5)


def test_two_unit_vectors_in_eight_dimensions_by_hand():
    vectors = torch.eye(8, dtype=torch.float64)[:2]
    bandwidth = 0.8502830
    told = to_normal(vectors, bandwidth, exact=False).item() * CODE_UNITS
    assert told == pytest.approx(0.1022449, abs=1e-7)
    apart = distance(vectors, torch.zeros_like(vectors), bandwidth, exact=False).item()
    assert apart == pytest.approx(0.01372473, abs=1e-8)


def test_codes_that_all_are_zero_by_hand():
    g = normal_bandwidth(128)
    expected = (1 + g) ** -0.5 + g**-0.5 - 2 * (g + 0.5) ** -0.5
    assert expected == pytest.approx(0.95972, abs=1e-5)
    zeros = torch.zeros(128, 8, dtype=torch.float64)
    for exact in (True, False):
        assert to_normal(zeros, g, exact=exact).item() * CODE_UNITS == pytest.approx(expected)


def test_on_a_line_it_is_the_distance_of_two_bells():
    # |N(a, g) - N(b, g)|^2 in L2 is (1 - exp(-(a - b)^2 / (4 g))) / sqrt(pi g).
    a, b, g = 0.3, 1.1, 0.4
    expected = (1 - math.exp(-((a - b) ** 2) / (4 * g))) / math.sqrt(math.pi * g)
    apart = distance(torch.tensor([[a]]).double(), torch.tensor([[b]]).double(), g)
    assert apart.item() == pytest.approx(expected)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("unbiased", [True, False])
def test_it_is_the_sum_over_pairs_of_the_equation(exact, unbiased):
    one, other, bandwidth = draw(0, 5), draw(1, 7), 0.3

    def mean(x, y, *, same):
        pairs = [
            KERNELS[exact]((a - b).square().sum() / (4 * bandwidth), 4)
            for i, a in enumerate(x)
            for j, b in enumerate(y)
            if not (same and unbiased and i == j)
        ]
        return torch.stack(pairs).mean()

    expected = mean(one, one, same=True) + mean(other, other, same=True)
    expected = (expected - 2 * mean(one, other, same=False)) / (2 * math.sqrt(math.pi * bandwidth))
    apart = distance(one, other, bandwidth, exact=exact, unbiased=unbiased)
    torch.testing.assert_close(apart, expected)


@given(seed=st.integers(0, 30), exact=st.booleans())
def test_it_is_a_distance_that_minds_neither_order_nor_place_nor_turn(seed, exact):
    one, other = draw(seed), draw(seed + 100) * 1.5
    apart = distance(one, other, exact=exact)
    turn = torch.linalg.qr(draw(seed + 200, 4, 4)).Q
    moved = [x @ turn + torch.arange(4) for x in (one, other)]
    assert apart > 0
    assert distance(one, one, exact=exact).abs() < 1e-12
    torch.testing.assert_close(distance(other, one, exact=exact), apart)
    torch.testing.assert_close(distance(*moved, exact=exact), apart)
    torch.testing.assert_close(distance(one.flip(0), other, exact=exact), apart)


@pytest.mark.parametrize("dimensions", [3, 8, 20])
def test_it_is_the_mean_over_directions_of_the_distance_on_a_line(dimensions):
    one, other = draw(0, 32, dimensions), draw(1, 32, dimensions) + 0.5
    bandwidth, directions = normal_bandwidth(32), draw(2, 400, dimensions)
    directions = directions / directions.norm(dim=1, keepdim=True)
    slices = torch.stack(
        [distance((one @ v)[:, None], (other @ v)[:, None], bandwidth) for v in directions]
    )
    error = slices.std() / len(slices) ** 0.5
    assert (slices.mean() - distance(one, other, bandwidth)).abs() < 4 * error


def test_the_distance_to_the_normal_is_that_to_very_many_normal_samples():
    codes, many = draw(0, 400, 3) * 1.3 + 0.5, draw(1, 600, 3)
    sampled = distance(codes, many, 0.3, unbiased=True)
    assert sampled.item() == pytest.approx(to_normal(codes, 0.3, unbiased=True).item(), abs=0.003)
    assert sampled > 0.015


@pytest.mark.parametrize(("dimensions", "bias"), [(8, 0.0356), (20, 0.0132)])
def test_only_the_exact_distance_calls_normal_samples_normal(dimensions, bias):
    g = normal_bandwidth(128)
    apart = {
        exact: torch.stack(
            [
                to_normal(draw(seed, 512, dimensions), g, exact=exact, unbiased=True)
                for seed in range(4)
            ]
        )
        for exact in (True, False)
    }
    error = apart[True].std() / 4**0.5
    assert apart[True].mean().abs() < 4 * error
    assert apart[False].mean().item() * CODE_UNITS == pytest.approx(bias, abs=0.002)


def test_exactly_normal_codes_have_the_scale_one_and_by_the_approximation_less():
    codes, g = draw(0, 500, 8), normal_bandwidth(128)
    scales = [0.9, 0.95, 1.0, 1.05]
    best = {
        exact: min(scales, key=lambda s: to_normal(s * codes, g, exact=exact, unbiased=True).item())
        for exact in (True, False)
    }
    assert best == {True: 1.0, False: 0.95}


def test_normal_codes_are_nearer_than_moved_ones_than_narrow_ones_than_collapsed_ones():
    codes, g = draw(0, 128, 8), normal_bandwidth(128)
    cases = (codes, codes + 0.5, codes * 0.5, torch.zeros_like(codes))
    told = [to_normal(case, g).item() for case in cases]
    assert told == sorted(told)


def test_going_down_the_distance_makes_codes_normal():
    codes = (draw(0, 64, 4) * 0.4 + 1.5).requires_grad_()
    optimizer = torch.optim.Adam([codes], lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        to_normal(codes, normal_bandwidth(64)).log().backward()
        optimizer.step()
    torch.testing.assert_close(codes.mean(0), torch.zeros(4).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(codes.T), torch.eye(4).double(), atol=0.1, rtol=0)


def test_the_gradient_is_finite_where_points_meet():
    points = torch.zeros(4, 3, requires_grad=True)
    (distance(points, torch.ones(4, 3)) + to_normal(points, 0.2)).backward()
    assert points.grad.isfinite().all()


def test_squared_distances_keep_their_digits_far_from_the_origin():
    points = draw(0).float() + 1000
    expected = (points[:, None] - points[None]).square().sum(-1)
    torch.testing.assert_close(squared_distances(points, points), expected, atol=1e-3, rtol=1e-3)


def answer(images, made, codes):
    return Outputs(output={"images": made, "codes": codes}), None, image_batch(images)


def test_the_auto_encoder_pays_for_pixels_and_for_codes_that_are_not_normal():
    images = torch.rand(6, 1, 4, 4, generator=rng())
    made, codes = images + 0.1, draw(0, 6, 8).float()
    terms = AutoEncoding(normality=3.0)(*answer(images, made, codes))
    assert terms["reconstruction"].item() == pytest.approx(16 * 0.01, rel=1e-4)
    apart = to_normal(codes, normal_bandwidth(6)).item()
    assert terms["normality"].item() == pytest.approx(3 * math.log(apart + 1e-7), rel=1e-4)


def test_without_normality_it_is_a_plain_auto_encoder():
    images = torch.rand(6, 1, 4, 4, generator=rng())
    terms = AutoEncoding(normality=0)(*answer(images, images, draw(0, 6, 8).float()))
    assert {name: value.item() for name, value in terms.items()} == {"reconstruction": 0.0}


def test_in_many_dimensions_the_approximation_is_good_enough():
    images, codes = torch.rand(6, 1, 4, 4, generator=rng()), draw(0, 6, 24).float()
    told = AutoEncoding(normality=1)(*answer(images, images, codes))["normality"].exp()
    apart = to_normal(codes, normal_bandwidth(6), exact=False) + 1e-7
    torch.testing.assert_close(told, apart)


def test_cramer_wold_reconstruction_compares_batches_and_not_images():
    images, codes = torch.rand(6, 1, 4, 4, generator=rng()), draw(0, 6, 8).float()
    objective = AutoEncoding(reconstruction="cramer-wold")
    turned = objective(*answer(images, images.flip(0), codes))["reconstruction"]
    other = objective(*answer(images, images.flip(0) * 0.5, codes))["reconstruction"]
    assert turned.item() == pytest.approx(math.log(1e-7), abs=0.5)
    assert other > turned + 1


def test_a_latent_generator_that_makes_the_codes_themselves_has_nothing_to_learn():
    codes = draw(0, 16, 8).float()
    batch = Batch(views={"student": codes})
    match = LatentMatching(spread=codes.std().item())
    same = match(Outputs(output=codes.flip(0)), Outputs(output=codes), batch)
    other = match(Outputs(output=codes + 1), Outputs(output=codes), batch)
    assert same["latent_distance"].abs() < 1e-6
    assert other["latent_distance"] > 0.01


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (lambda: AutoEncoding(normality=-1), "normality must not be negative"),
        (lambda: AutoEncoding(exact_below=-1), "exact_below must not be negative"),
        (lambda: LatentMatching(spread=0.0), "spread must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        settings()
