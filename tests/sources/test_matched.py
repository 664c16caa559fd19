import pytest
import torch

from doublure.sources.matched import Matched, match
from doublure.sources.noise import Noise
from tests import tiny


def test_without_spread_an_image_has_the_mean_and_deviation_asked_for():
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    made = match(images, torch.tensor([0.5]), torch.tensor([0.1]), torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(made.mean((1, 2, 3)), torch.full((3,), 0.5))
    torch.testing.assert_close(made.std((1, 2, 3)), torch.full((3,), 0.1))


def test_matching_twice_is_matching_once():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.1)
    once = match(images, mean, std, torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(match(once, mean, std, torch.zeros(3), torch.ones(3)), once)


def test_contrast_and_brightness_of_the_source_do_not_matter():
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = torch.tensor([0.5]), torch.tensor([0.1]), torch.zeros(2), torch.ones(2)
    torch.testing.assert_close(match(0.2 + 0.3 * images, *arguments), match(images, *arguments))


def test_a_flat_image_stays_flat():
    flat = torch.full((1, 3, 8, 8), 0.7)
    made = match(flat, torch.rand(3), torch.rand(3), torch.zeros(1), torch.ones(1))
    assert torch.allclose(made, made[:, :, :1, :1].expand_as(made))


def test_it_is_a_function_of_seed_and_step_within_the_range():
    def draw(step, seed=0):
        source = Matched(source=Noise(), spread=1.0)
        return source.open(tiny.context(), None, tiny.rng(seed)).draw(step, None).images

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    assert draw(0).min() >= 0
    assert draw(0).max() <= 1


def test_a_negative_spread_is_refused():
    with pytest.raises(ValueError, match="spread must not be negative, got -1"):
        Matched(source=Noise(), spread=-1)
