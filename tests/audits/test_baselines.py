import pytest
import torch

from doublure.audits.baselines import (
    BASELINES,
    baseline_image,
    blur,
    inpaint,
    neutral_image,
    neutrality,
    shuffle_tiles,
)
from tests.tiny import rng

MEAN = torch.tensor([0.2, 0.4, 0.6])


def image(height=16, width=12):
    return torch.rand(3, height, width, generator=rng())


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "neutral"])
def test_a_baseline_is_an_image_and_leaves_the_other_as_it_was(name):
    x = image()
    before = x.clone()
    b = baseline_image(name, x, MEAN, rng(1))
    assert b.shape == x.shape
    assert b.min() >= 0
    assert b.max() <= 1
    assert torch.equal(x, before)
    assert torch.equal(b, baseline_image(name, x, MEAN, rng(1)))


def test_colours_are_those_of_pixels_before_normalisation():
    x = image()
    assert not baseline_image("black", x, MEAN, rng()).any()
    assert torch.equal(baseline_image("mean", x, MEAN, rng())[:, 3, 4], MEAN)
    own = baseline_image("own-mean", x, MEAN, rng())
    torch.testing.assert_close(own[:, 0, 0], x.mean((1, 2)))


def test_blur_keeps_a_constant_image_and_the_ends_of_its_scale():
    flat = torch.full((1, 9, 9), 0.3)
    torch.testing.assert_close(blur(flat, 2.0), flat)
    x = image()
    torch.testing.assert_close(blur(x, 0.01), x)
    assert blur(x, 5.0).std() < x.std() / 3


def test_shuffled_tiles_are_the_same_pixels():
    x = image()
    mixed = shuffle_tiles(x, 4, rng())
    assert not torch.equal(mixed, x)
    torch.testing.assert_close(mixed.flatten(1).sort(1).values, x.flatten(1).sort(1).values)


def test_each_inner_pixel_of_an_inpainted_image_is_the_mean_of_its_neighbours():
    x = image()
    b = inpaint(x)
    mean = (b[:, :-2, 1:-1] + b[:, 2:, 1:-1] + b[:, 1:-1, :-2] + b[:, 1:-1, 2:]) / 4
    torch.testing.assert_close(b[:, 1:-1, 1:-1], mean, atol=1e-5, rtol=0)
    assert torch.equal(b[:, 0], x[:, 0])


def test_a_neutral_image_is_answered_almost_uniformly():
    weights = torch.randn(48, 4, generator=rng())
    start = torch.rand(3, 4, 4, generator=rng(1))

    def logits(images):
        return images.flatten(1) @ weights

    found = neutral_image(logits, start)
    before, after = (neutrality(logits(part[None]), 0) for part in (start, found))
    assert after["entropy"] > 0.999 > before["entropy"]
    assert found.min() >= 0
    assert found.max() <= 1


def test_neutrality_by_hand():
    flat = neutrality(torch.zeros(1, 4), 2)
    assert [flat[key].item() for key in ("target", "largest", "entropy")] == pytest.approx(
        [0.25, 0.25, 1.0]
    )


def test_an_unknown_baseline_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        baseline_image("noize", image(), MEAN, rng())
