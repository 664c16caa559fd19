from dataclasses import replace

import pytest
import torch

from doublure.core.protocols import InputContract, Source
from doublure.core.seeding import from_seed
from doublure.sources.noise import Noise, gaussian_noise, uniform_noise
from tests.tiny import context, rng

COLOUR = InputContract(size=(16, 12), channels=3, mean=(0.5, 0.4, 0.6), std=(0.1,) * 3, classes=10)


def draw(source: Source, step: int = 0) -> torch.Tensor:
    where = replace(context(batch_size=64), contract=COLOUR)
    return source.open(where, None, rng()).draw(step, None).images


def test_gaussian_noise_has_the_contracts_mean_and_std():
    images = draw(Noise())
    assert images.shape == (64, 3, 16, 12)
    # 64 x 16 x 12 pixels a channel: the mean's own deviation is 0.1 / 111.
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.tensor(COLOUR.mean), atol=4e-3, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.tensor(COLOUR.std), atol=3e-3, rtol=0)


def test_gaussian_noise_is_clipped_at_black_and_white():
    images = gaussian_noise(8, (8, 8), (0.5,), (10.0,), from_seed(0))
    assert images.min() == 0
    assert images.max() == 1


def test_no_spread_leaves_the_mean():
    images = gaussian_noise(2, (4, 4), (0.25, 0.75), (0.0, 0.0), from_seed(0))
    assert torch.equal(images[:, 0], torch.full((2, 4, 4), 0.25))
    assert torch.equal(images[:, 1], torch.full((2, 4, 4), 0.75))


def test_uniform_noise_has_the_mean_and_variance_of_its_law():
    images = uniform_noise(64, (16, 16), 3, from_seed(0))
    assert images.mean().item() == pytest.approx(0.5, abs=5e-3)
    assert images.var().item() == pytest.approx(1 / 12, abs=2e-3)
    assert torch.equal(draw(Noise(distribution="uniform")), draw(Noise(distribution="uniform")))


def test_settings_of_ones_own_replace_the_contracts():
    images = draw(Noise(mean=(0.2, 0.2, 0.2), std=(0.01, 0.01, 0.01)))
    assert images.mean().item() == pytest.approx(0.2, abs=1e-3)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="uniform noise has no mean and std"):
        Noise(distribution="uniform", mean=(0.5,))
    with pytest.raises(ValueError, match="std must not be negative"):
        Noise(std=(-1.0,))
    with pytest.raises(
        ValueError, match=r"mean of the noise must have one value per channel \(3\)"
    ):
        draw(Noise(mean=(0.5,)))
