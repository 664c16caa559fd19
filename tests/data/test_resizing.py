import numpy as np
import pytest
from PIL import Image

from doublure.core.protocols import InputContract
from doublure.data.resizing import (
    GREY_TO_RGB,
    RGB_TO_GREY,
    check_fittable,
    colour_change,
    covering_size,
    fit_image,
    fit_pixels,
    image_to_pixels,
)


def contract(size=(8, 8), channels=3, **fields):
    return InputContract(
        size=size,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        classes=10,
        **fields,
    )


def noise(height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_a_landscape_at_crop_pct_0_875_is_scaled_as_timm_scales_it():
    # floor(224 / 0.875) = 256 for the shorter side, int(256 * 500 / 375) = 341 for the longer.
    assert covering_size(375, 500, (224, 224), 0.875) == (256, 341)


def test_a_portrait_keeps_its_width_as_the_shorter_side():
    assert covering_size(500, 375, (224, 224), 1.0) == (298, 224)


def test_a_wide_contract_is_covered_on_both_sides():
    height, width = covering_size(100, 100, (180, 240), 1.0)
    assert (height, width) == (240, 240)


def test_an_image_of_the_right_size_is_left_alone_even_below_crop_pct_1():
    pixels = noise(8, 8, 3)
    np.testing.assert_array_equal(fit_pixels(pixels, contract(crop_pct=0.5)), pixels)


def test_the_centre_is_kept():
    pixels = np.zeros((8, 12, 3), dtype=np.uint8)
    pixels[:, 2:10] = 255
    np.testing.assert_array_equal(fit_pixels(pixels, contract()), np.full((8, 8, 3), 255))


def test_scaling_follows_the_named_interpolation():
    pixels = noise(16, 16, 3)
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
        expected = Image.fromarray(pixels).resize((8, 8), Image.Resampling[name.upper()])
        fitted = fit_image(Image.fromarray(pixels), contract(interpolation=name))
        np.testing.assert_array_equal(np.asarray(fitted), np.asarray(expected))


def test_five_channels_are_scaled_like_five_grey_images():
    pixels = noise(16, 16, 5)
    fitted = fit_pixels(pixels, contract(channels=5))
    for channel in range(5):
        alone = fit_pixels(pixels[:, :, channel : channel + 1], contract(channels=1))
        np.testing.assert_array_equal(fitted[:, :, channel], alone[:, :, 0])


def test_grey_becomes_three_equal_channels():
    fitted = fit_pixels(noise(8, 8, 1), contract())
    assert fitted.shape == (8, 8, 3)
    assert (fitted == fitted[:, :, :1]).all()


def test_colour_becomes_grey_by_luminance():
    green = np.zeros((8, 8, 3), dtype=np.uint8)
    green[:, :, 1] = 255
    assert (fit_pixels(green, contract(channels=1)) == round(0.587 * 255)).all()


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        pixels = image_to_pixels(image, contract(size=(1, 3), channels=1))
    assert pixels[0, :, 0].tolist() == [0, 128, 255]


def test_a_transparent_palette_is_read_without_its_transparency(tmp_path):
    image = Image.new("P", (8, 8), color=1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.info["transparency"] = bytes([255, 0])
    assert (image_to_pixels(image, contract()) == (10, 20, 30)).all()


def test_float_pixels_in_a_file_are_refused():
    with pytest.raises(ValueError, match="mode F have no defined white"):
        image_to_pixels(Image.new("F", (8, 8)), contract())


def test_only_one_and_three_channels_stand_for_each_other():
    assert colour_change(3, 3) is None
    assert colour_change(1, 3) == GREY_TO_RGB
    assert colour_change(3, 1) == RGB_TO_GREY
    with pytest.raises(ValueError, match="images have 4 channels, but the network takes 3"):
        colour_change(4, 3)


def test_an_unknown_interpolation_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'bicubic'"):
        check_fittable(contract(interpolation="bicubik"))


@pytest.mark.parametrize("crop_pct", [0.0, 1.1])
def test_a_crop_outside_the_image_is_refused(crop_pct):
    with pytest.raises(ValueError, match=r"crop_pct must be in \(0, 1\]"):
        check_fittable(contract(crop_pct=crop_pct))
