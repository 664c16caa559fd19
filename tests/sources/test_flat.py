import math
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import InputContract
from doublure.sources.flat import Flat, linear_gradient
from tests.tiny import context, rng

EXAMPLES = (Flat(gradient=True),)

COLOUR = InputContract(size=(6, 9), channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, classes=10)


def draw(source: Flat) -> torch.Tensor:
    where = replace(context(), contract=COLOUR)
    return source.open(where, None, rng()).draw(0, None).images


def test_a_flat_image_has_one_colour_and_each_image_its_own():
    images = draw(Flat())
    assert images.shape == (8, 3, 6, 9)
    assert torch.equal(images, images[:, :, :1, :1].expand_as(images))
    assert len(images[:, :, 0, 0].unique(dim=0)) == 8


def test_a_gradient_along_a_row_by_hand():
    black, white = torch.zeros(1, 1), torch.ones(1, 1)
    image = linear_gradient(black, white, torch.zeros(1), (2, 5))
    expected = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).expand(1, 1, 2, 5)
    torch.testing.assert_close(image, expected)


@given(degrees=st.floats(0, 360), height=st.integers(1, 7), width=st.integers(1, 7))
def test_a_gradient_stays_between_its_colours_and_reaches_both(degrees, height, width):
    start, end = torch.tensor([[0.2, 0.9]]), torch.tensor([[0.6, 0.1]])
    image = linear_gradient(start, end, torch.tensor([math.radians(degrees)]), (height, width))
    share = (image[0, 0] - 0.2) / 0.4
    torch.testing.assert_close(image[0, 1], 0.9 - 0.8 * share)
    # A single row seen from the side, or a single pixel, has hardly any extent to speak of.
    assert share.min() >= -1e-5
    assert share.max() <= 1 + 1e-5
    if height > 1 and width > 1:
        torch.testing.assert_close(share.aminmax(), (torch.tensor(0.0), torch.tensor(1.0)))


def test_a_gradient_of_one_colour_is_flat():
    colour = torch.tensor([[0.3]])
    image = linear_gradient(colour, colour, torch.tensor([1.0]), (4, 4))
    torch.testing.assert_close(image, torch.full((1, 1, 4, 4), 0.3))


def test_gradients_differ_between_images_and_stay_in_range():
    images = draw(Flat(gradient=True))
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images.flatten(2).std(-1) > 0).all()
