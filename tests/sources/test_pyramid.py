import pytest
import torch
import torch.nn.functional as F

from doublure.core.seeding import from_seed
from doublure.sources.pyramid import (
    PyramidDescent,
    compose,
    enlargement,
    level_sizes,
    rate_at,
)


def test_a_pyramid_has_an_eighth_a_quarter_half_and_the_whole_of_the_side():
    assert level_sizes((32, 28)) == ((4, 3), (8, 7), (16, 14), (32, 28))
    assert level_sizes((8, 4)) == ((1, 1), (2, 1), (4, 2), (8, 4))


@pytest.mark.parametrize("size", [(8, 8), (28, 20), (9, 5)])
def test_a_pyramid_is_the_sum_of_its_levels_enlarged_bilinearly(size):
    sizes = level_sizes(size)
    by = [tuple(map(enlargement, part, size)) for part in sizes[:-1]]
    start = torch.full((2, 3, *size), 0.5)
    zeros = [torch.zeros(2, 3, *part) for part in sizes]
    assert torch.equal(compose(start, zeros, by), start)
    levels = [0.3 * torch.randn(part.shape, generator=from_seed(0)) for part in zeros]
    parts = [F.interpolate(part, size, mode="bilinear", align_corners=False) for part in levels]
    expected = (start + torch.stack(parts).sum(0)).clamp(0, 1)
    torch.testing.assert_close(compose(start, levels, by), expected)
    assert expected.max() == 1


def test_the_rate_rises_for_two_iterations_and_falls_to_a_tenth():
    rates = [rate_at(i, 15) for i in range(15)]
    assert rates[0] == pytest.approx(0.5)
    assert max(rates) == rates[1] == pytest.approx(1, rel=0.02)
    assert rates == [rates[0], *sorted(rates[1:], reverse=True)]
    assert rate_at(15, 15) == pytest.approx(0.1)


def test_a_step_moves_large_shapes_as_readily_as_pixels():
    start = torch.full((2, 1, 32, 32), 0.5)
    descent = PyramidDescent(start, 4, 0.01, from_seed(0))
    assert torch.equal(descent.images(), start)
    descent.step(0, lambda images: images.sum())
    # Adam's first step is the rate, at half of it, on each of four levels.
    torch.testing.assert_close(descent.images(), start - 4 * 0.005)


def test_no_gradient_is_left_where_others_see_it():
    start = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    descent = PyramidDescent(start, 1, 0.01, from_seed(0))
    descent.step(0, lambda images: images.sum())
    assert start.grad is None
