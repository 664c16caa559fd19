import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from doublure.core.seeding import from_seed
from doublure.sources import recolouring
from doublure.sources.recolouring import (
    Recolouring,
    autocontrast,
    blur,
    brightness,
    contrast,
    cut_out,
    equalize,
    grey_weights,
    hue,
    invert,
    posterize,
    recolour,
    saturation,
    sharpen,
    solarize,
)

LINEAR = (brightness, contrast, saturation, hue, invert)


def draw(channels: int = 3) -> Tensor:
    """8-bit images, low in contrast so that little is clipped."""
    levels = torch.randint(80, 160, (3, channels, 12, 10), generator=from_seed(0))
    return levels.float() / 255


def each(value: float) -> Tensor:
    return torch.full((3,), value)


def once(step: Recolouring) -> Recolouring:
    """A chain of one."""
    return Recolouring(*(part[:, None] for part in step))


def to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def from_pillow(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("make", LINEAR)
def test_a_recolouring_of_no_strength_is_the_identity(make, channels):
    images = draw(channels)
    torch.testing.assert_close(recolour(images, once(make(each(0.0), channels))), images)


@pytest.mark.parametrize("factor", [0.1, 0.7, 1.4])
@pytest.mark.parametrize(
    ("make", "enhancer"),
    [
        (brightness, ImageEnhance.Brightness),
        (contrast, ImageEnhance.Contrast),
        (saturation, ImageEnhance.Color),
    ],
)
def test_enhancements_are_pillows(make, enhancer, factor):
    images = draw()
    ours = recolour(images, once(make(each(factor - 1), 3)))
    for image, made in zip(images, ours, strict=True):
        theirs = from_pillow(enhancer(to_pillow(image)).enhance(factor))
        # Pillow rounds the grey and the result, each by up to half a level, scaled by the factor.
        torch.testing.assert_close(made, theirs, atol=1.6 / 255, rtol=0)


@pytest.mark.parametrize("factor", [0.1, 1.9])
def test_sharpness_is_pillows_inside_of_the_border(factor):
    images = draw()
    ours = sharpen(images, each(factor - 1))
    for image, made in zip(images, ours, strict=True):
        theirs = from_pillow(ImageEnhance.Sharpness(to_pillow(image)).enhance(factor))
        inside = (slice(None), slice(1, -1), slice(1, -1))
        torch.testing.assert_close(made[inside], theirs[inside], atol=1.6 / 255, rtol=0)


def test_tone_operations_are_pillows():
    images = draw()
    for image, stretched, few, solar in zip(
        images,
        autocontrast(images),
        posterize(images, torch.full((3,), 4)),
        solarize(images, each(128 / 255)),
        strict=True,
    ):
        picture = to_pillow(image)
        torch.testing.assert_close(few, from_pillow(ImageOps.posterize(picture, 4)))
        torch.testing.assert_close(solar, from_pillow(ImageOps.solarize(picture, 128)))
        stretch = from_pillow(ImageOps.autocontrast(picture))
        torch.testing.assert_close(stretched, stretch, atol=1.1 / 255, rtol=0)


def test_equalization_is_pillows_up_to_its_whole_numbers():
    image = torch.randint(80, 160, (1, 3, 200, 200), generator=from_seed(1)).float() / 255
    theirs = from_pillow(ImageOps.equalize(to_pillow(image[0])))
    # Pillow starts half a level up and counts whole pixels per level; a level here holds 1/80.
    torch.testing.assert_close(equalize(image)[0], theirs, atol=1.5 / 80, rtol=0)


def test_saturation_by_hand():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    grey = recolour(red, once(saturation(torch.tensor([-1.0]), 3)))
    torch.testing.assert_close(grey.flatten(), torch.full((3,), 0.299))


def test_a_third_of_a_turn_of_hue_turns_red_to_green_to_blue():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    third = once(hue(torch.tensor([1 / 3]), 3))
    green = recolour(red, third)
    torch.testing.assert_close(green.flatten(), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    blue = recolour(green, third)
    torch.testing.assert_close(blue.flatten(), torch.tensor([0.0, 0.0, 1.0]), atol=1e-6, rtol=0)


def test_hue_leaves_grey_alone():
    grey = draw(1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(recolour(grey, once(hue(each(0.37), 3))), grey)


def test_inverting_twice_gives_the_image_back():
    inverted = recolour(draw(), once(invert(each(1.0), 3)))
    torch.testing.assert_close(inverted, 1 - draw())
    step = invert(each(1.0), 3)
    twice = Recolouring(*(torch.stack([part, part], 1) for part in step))
    torch.testing.assert_close(recolour(draw(), twice), draw())


def test_a_folded_chain_is_one_step_after_the_other():
    # Weak enough that no step clips: a chain clips at its end only.
    steps = [
        contrast(each(0.3), 3),
        saturation(each(0.4), 3),
        brightness(each(-0.3), 3),
        hue(each(0.05), 3),
        contrast(each(-0.4), 3),
        invert(each(1.0), 3),
    ]
    folded = Recolouring(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))
    expected = draw()
    for step in steps:
        expected = recolour(expected, once(step))
    assert expected.min() > 0
    assert expected.max() < 1
    torch.testing.assert_close(recolour(draw(), folded), expected, atol=1e-6, rtol=0)


def test_grey_weights_sum_to_one():
    for channels in (1, 2, 3, 4):
        assert grey_weights(channels).sum().item() == pytest.approx(1.0)


def test_tone_operations_of_no_strength_change_nothing():
    images = draw()
    torch.testing.assert_close(posterize(images, torch.full((3,), 8)), images)
    assert torch.equal(solarize(images, each(256 / 255)), images)
    assert torch.equal(sharpen(images, each(0.0)), images)
    torch.testing.assert_close(blur(images, each(0.0), 2), images)
    assert torch.equal(cut_out(images, each(0.0), each(0.5), each(0.5)), images)


def test_a_constant_channel_keeps_its_value_where_there_is_nothing_to_stretch():
    constant = torch.full((1, 2, 4, 4), 0.3)
    assert torch.equal(autocontrast(constant), constant)
    assert torch.equal(equalize(constant), constant)


def test_equalized_levels_are_evenly_spread_by_hand():
    image = torch.tensor([0.1, 0.2, 0.2, 0.3, 0.9]).view(1, 1, 1, 5)
    # Shares of the other pixels at or below: 0, 2/4, 2/4, 3/4, 4/4.
    expected = torch.tensor([0.0, 0.5, 0.5, 0.75, 1.0])
    torch.testing.assert_close(equalize(image).flatten(), expected)


def test_blurring_a_point_draws_a_gaussian():
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1.0
    blurred = blur(point, torch.tensor([1.5]), 8)[0, 0]
    assert blurred.sum().item() == pytest.approx(1.0, abs=1e-5)
    away = torch.arange(21.0) - 10
    spread = (blurred.sum(0) * away**2).sum().sqrt()
    assert spread.item() == pytest.approx(1.5, rel=0.01)
    torch.testing.assert_close(blurred, blurred.T)


def test_a_flat_image_has_nothing_to_blur_or_sharpen():
    flat = torch.full((3, 1, 5, 5), 0.4)
    torch.testing.assert_close(blur(flat, each(2.0), 5), flat)
    torch.testing.assert_close(sharpen(flat, each(0.9)), flat)


def test_a_hole_is_grey_where_it_is_and_nowhere_else():
    image = torch.ones(1, 1, 4, 4)
    half, quarter = torch.tensor([0.5]), torch.tensor([0.25])
    expected = torch.ones(1, 1, 4, 4)
    expected[..., 0:2, 1:3] = 0.5
    assert torch.equal(cut_out(image, half, half, quarter), expected)


def test_operations_leave_their_input_as_it_was():
    images, kept = draw(), draw()
    recolour(images, once(brightness(each(2.0), 3)))
    for operation in (autocontrast, equalize):
        operation(images)
    posterize(images, torch.full((3,), 2))
    solarize(images, each(0.3))
    sharpen(images, each(0.9))
    blur(images, each(1.0), 3)
    cut_out(images, each(0.5), each(0.5), each(0.5))
    assert torch.equal(images, kept)
    assert recolouring.recolour(images, once(brightness(each(5.0), 3))).max() == 1
