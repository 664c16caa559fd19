"""Pooled filters: exact on affine images, and gradients that reach the full ones."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from doublure.nets.pooled_conv import (
    can_be_pooled,
    pooled_conv2d,
    pooled_weight,
    pooling_matrix,
)


def convolution(kernel: int = 3, **more: int) -> nn.Conv2d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Conv2d(4, 6, kernel, padding=kernel // 2, bias=False, **more).double()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(1))


def test_the_matrix_of_three_taps_by_hand():
    assert pooling_matrix(3).tolist() == [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
    assert pooling_matrix(1).tolist() == [[1.0]]
    with pytest.raises(ValueError, match="kernel must be odd, got 4"):
        pooling_matrix(4)


@pytest.mark.parametrize(("kernel", "small"), [(1, 1), (3, 2), (5, 3), (7, 4)])
def test_taps_keep_their_sum_and_their_first_moment(kernel, small):
    matrix = pooling_matrix(kernel)
    assert matrix.shape == (small, kernel)
    assert torch.equal(matrix.sum(0), torch.ones(kernel))
    places = 2.0 * torch.arange(small) - (small - 1)
    assert torch.equal(places @ matrix, torch.arange(kernel) - (kernel - 1) / 2)


@given(seed=st.integers(0, 99))
def test_on_an_affine_image_the_pooled_filter_answers_as_the_full_one_between_four_pixels(seed):
    constant, down, right = torch.randn(3, generator=torch.manual_seed(seed)).double()
    pixels = torch.arange(12, dtype=torch.float64)
    image = (constant + down * pixels[:, None] + right * pixels)[None, None]
    weight = torch.randn(1, 1, 3, 3, dtype=torch.float64, generator=torch.manual_seed(seed))
    small = F.conv2d(F.avg_pool2d(image, 2), pooled_weight(weight, "split"))
    full = F.conv2d(image, weight)  # its first answer stands at pixel 1
    between = F.avg_pool2d(full, 2)  # of pixels 1 and 2, of 3 and 4, ...
    torch.testing.assert_close(small[0, 0], between[0, 0, :5, :5], rtol=0.0, atol=1e-10)


def test_sums_are_kept_by_split_and_constants_by_mean():
    weight = drawn(6, 4, 3, 3)
    torch.testing.assert_close(pooled_weight(weight, "split").sum((2, 3)), weight.sum((2, 3)))
    constant = torch.full((1, 1, 3, 3), 2.0)
    assert torch.equal(pooled_weight(constant, "split"), torch.full((1, 1, 2, 2), 2 * 9 / 4))
    assert torch.equal(pooled_weight(constant, "mean"), torch.full((1, 1, 2, 2), 2.0))
    assert torch.equal(pooled_weight(constant, "max"), torch.full((1, 1, 2, 2), 2.0))
    assert pooled_weight(drawn(1, 1, 7, 5), "mean").shape == (1, 1, 4, 3)


def test_the_gradient_of_the_full_filter_is_that_of_the_pooled_one_spread_back():
    layer, images = convolution(), drawn(2, 4, 6, 6)
    pooled_conv2d(images, layer, "split", more_before=False).square().sum().backward()
    small = pooled_weight(layer.weight, "split").detach().requires_grad_()
    F.conv2d(F.pad(images, (0, 1, 0, 1)), small).square().sum().backward()
    matrix = pooling_matrix(3).double()
    torch.testing.assert_close(layer.weight.grad, matrix.T @ small.grad @ matrix)


@pytest.mark.parametrize("kind", ["split", "mean", "max"])
def test_gradients_are_those_of_finite_differences(kind):
    weight = drawn(2, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: pooled_weight(w, kind), (weight,))


@given(size=st.integers(4, 19), stride=st.integers(1, 2), kernel=st.sampled_from([1, 3, 5, 7]))
def test_maps_have_the_size_that_the_full_filter_would_leave(size, stride, kernel):
    layer = convolution(kernel, stride=stride)
    images = torch.zeros(1, 4, size, size + 1, dtype=torch.float64)
    for more_before in (False, True):
        pooled = pooled_conv2d(images, layer, "split", more_before=more_before)
        assert pooled.shape == layer(images).shape


def test_a_filter_of_one_tap_is_the_layer_itself():
    layer, images = convolution(1), drawn(2, 4, 5, 5)
    pooled = pooled_conv2d(images, layer, "split", more_before=False)
    torch.testing.assert_close(pooled, layer(images), rtol=0.0, atol=1e-14)


def test_depthwise_filters_are_pooled_each_on_its_own():
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False).double()
    images = drawn(1, 4, 6, 6)
    pooled = pooled_conv2d(images, layer, "split", more_before=False)
    small = pooled_weight(layer.weight, "split")
    alone = F.conv2d(F.pad(images[:, :1], (0, 1, 0, 1)), small[:1])
    torch.testing.assert_close(pooled[:, :1], alone)


def test_what_cannot_be_pooled_is_told_apart():
    assert can_be_pooled(nn.Conv2d(1, 1, (3, 5), padding=1))
    assert not can_be_pooled(nn.Conv2d(1, 1, 4))
    assert not can_be_pooled(nn.Conv2d(1, 1, 3, dilation=2))
    assert not can_be_pooled(nn.Conv2d(1, 1, 3, padding="same"))
    assert not can_be_pooled(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
