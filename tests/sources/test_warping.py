import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from doublure.core.seeding import from_seed
from doublure.sources.warping import (
    crop,
    flip,
    rotation,
    shear_x,
    shear_y,
    tilt,
    translation,
    warp,
)


def draw(height: int = 6, width: int = 6) -> Tensor:
    return torch.rand((2, 3, height, width), generator=from_seed(0))


def both(value: float) -> Tensor:
    return torch.full((2,), value)


def assert_same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(6, 6), (5, 9), (1, 4)])
def test_a_warp_of_no_strength_is_the_identity(size):
    aspect = size[1] / size[0]
    none = both(0.0)
    for matrix in (
        rotation(none, aspect),
        shear_x(none, aspect),
        shear_y(none, aspect),
        translation(none, none),
        flip(none),
        tilt(none, none),
        crop(both(1.0), both(aspect), none, none, aspect),
    ):
        assert torch.equal(matrix, torch.eye(3).expand(2, 3, 3))
        assert_same(warp(draw(*size), matrix, "zeros"), draw(*size))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_rotation_by_right_angles_is_rot90(turns):
    turned = warp(draw(), rotation(both(90.0 * turns), 1.0), "zeros")
    assert_same(turned, torch.rot90(draw(), turns, (2, 3)))


def test_a_half_turn_needs_no_square():
    turned = warp(draw(5, 9), rotation(both(180.0), 9 / 5), "zeros")
    assert_same(turned, draw(5, 9).flip(2, 3))


def test_a_quarter_turn_of_a_wide_image_keeps_its_scale():
    image = torch.zeros(1, 1, 5, 9)
    image[..., 2, 4:7] = 1.0  # from the middle two pixels to the right
    turned = warp(image, rotation(torch.tensor([90.0]), 9 / 5), "zeros")
    expected = torch.zeros(1, 1, 5, 9)
    expected[..., 0:3, 4] = 1.0  # now two pixels up
    assert_same(turned, expected)


def test_flipping_twice_gives_the_image_back():
    once = warp(draw(), flip(both(1.0)), "zeros")
    assert_same(once, draw().flip(3))
    assert_same(warp(once, flip(both(1.0)), "zeros"), draw())
    assert torch.equal(flip(both(1.0)) @ flip(both(1.0)), flip(both(0.0)))


def test_a_translation_by_whole_pixels_moves_right_and_down():
    moved = warp(draw(), translation(both(2 / 6), both(1 / 6)), "zeros")
    expected = torch.zeros_like(draw())
    expected[:, :, 1:, 2:] = draw()[:, :, :-1, :-2]
    assert_same(moved, expected)


def test_outside_of_an_image_is_what_the_padding_says():
    row = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4) / 4
    by_two = translation(torch.tensor([0.5]), torch.tensor([0.0]))
    assert_same(4 * warp(row, by_two, "zeros").flatten(), torch.tensor([0.0, 0, 1, 2]))
    assert_same(4 * warp(row, by_two, "border").flatten(), torch.tensor([1.0, 1, 1, 2]))
    assert_same(4 * warp(row, by_two, "reflection").flatten(), torch.tensor([2.0, 1, 1, 2]))


def test_a_shear_moves_rows_in_proportion_to_their_height():
    image = torch.zeros(1, 1, 5, 5)
    image[..., :, 2] = 1.0
    sheared = warp(image, shear_x(torch.tensor([1.0]), 1.0), "zeros")
    assert_same(sheared, torch.eye(5).flip(1).view(1, 1, 5, 5))
    sheared = warp(image.mT, shear_y(torch.tensor([1.0]), 1.0), "zeros")
    assert_same(sheared, torch.eye(5).flip(1).view(1, 1, 5, 5))


def test_a_crop_of_a_quarter_enlarges_that_quarter():
    image = torch.arange(4.0).view(1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    one = torch.ones(1)
    corner = crop(0.25 * one, one, one, -one, 1.0)  # rightmost, uppermost
    inside = (slice(None), slice(None), slice(0, 6), slice(2, 8))  # the rest blends with others
    assert_same(warp(image, corner, "border")[inside], torch.ones(1, 1, 6, 6))


def test_a_crops_ratio_is_that_of_its_pixels():
    matrix = crop(torch.tensor(0.125), torch.tensor(2.0), torch.tensor(0.0), torch.tensor(0.0), 2.0)
    width, height = 2 * matrix[0, 0], matrix[1, 1]  # of an image twice as wide as high
    assert (width / height).item() == pytest.approx(2.0)
    assert (matrix[0, 0] * matrix[1, 1]).item() == pytest.approx(0.125)


def test_a_crop_never_passes_the_image():
    shares = torch.linspace(-1, 1, 9)
    matrix = crop(torch.full((9,), 0.9), torch.full((9,), 3.0), shares, shares.flip(0), 1.0)
    corners = torch.tensor([[-1.0, -1, 1], [1, 1, 1]]).T
    assert (matrix @ corners).abs().max() <= 1 + 1e-6


def test_a_tilt_enlarges_one_side_and_shrinks_the_other():
    image = torch.ones(1, 1, 31, 31)
    tilted = warp(image, tilt(torch.tensor([0.5]), torch.tensor([0.0])), "zeros")[0, 0]
    # Column x shows the rows |y| < 1 + x / 2: all of them on the right, fewer to the left.
    assert tilted[:, -1].sum().item() == pytest.approx(31)
    x = 2 * 8.5 / 31 - 1
    assert tilted[:, 8].sum().item() == pytest.approx(31 * (1 + x / 2), abs=1)


@given(
    degrees=st.floats(-180, 180),
    slope=st.floats(-0.5, 0.5),
    x=st.floats(-0.5, 0.5),
    y=st.floats(0, 0.4),
)
def test_a_chain_is_one_product_applied_from_the_left(degrees, slope, x, y):
    chain = [
        rotation(both(degrees), 1.0),
        shear_x(both(slope), 1.0),
        translation(both(x), both(y)),
        tilt(both(x), both(y)),
    ]
    steep = torch.linspace(0, 1, 33).expand(2, 1, 33, 33)  # linear: resampling it is exact inside
    one_by_one, product = steep, torch.eye(3).expand(2, 3, 3)
    for matrix in chain[:2]:
        one_by_one = warp(one_by_one, matrix, "border")
        product = product @ matrix
    middle = (slice(None), slice(None), slice(12, 21), slice(12, 21))
    assert_same(warp(steep, product, "border")[middle], one_by_one[middle])
    for matrix in chain[2:]:
        product = product @ matrix
    assert torch.isfinite(warp(steep, product, "border")).all()


@pytest.mark.parametrize("padding", ["reflection", "zeros", "border"])
def test_a_warp_stays_in_range_and_leaves_its_input(padding):
    images, kept = draw(), draw()
    matrix = rotation(both(33.0), 1.0) @ tilt(both(0.4), both(-0.4))
    warped = warp(images, matrix, padding)
    assert warped.min() >= 0
    assert warped.max() <= 1
    assert torch.equal(images, kept)
