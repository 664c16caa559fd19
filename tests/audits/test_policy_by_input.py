"""A policy that chooses its bits by the image."""

import torch

from doublure.audits.policy_by_input import expected_flips, learn_policy
from doublure.core.seeding import from_seed


def test_the_expected_flips_by_hand():
    logits = torch.tensor([[3.0, 1.0]]).log()  # three to one
    assert torch.isclose(expected_flips(logits, torch.tensor([[1.0, 0.0]])), torch.tensor(0.75))


def test_what_the_image_tells_is_learned_and_one_policy_for_all_is_worse():
    rng = from_seed(0)
    bright = torch.rand(200, generator=rng) > 0.5
    images = torch.rand(200, 1, 8, 8, generator=rng) * 0.2 + 0.8 * bright[:, None, None, None]
    flips = torch.stack([bright, ~bright], 1)  # the first entry flips bright images alone
    found = learn_policy(images, flips, rng)
    assert found.learned > 0.95
    assert found.constant < 0.7
    assert found.oracle == 1.0
    assert found.entries_used == 2


def test_of_noise_nothing_is_learned():
    rng = from_seed(1)
    images = torch.rand(200, 1, 8, 8, generator=rng)
    flips = torch.rand(200, 4, generator=rng) > 0.7
    found = learn_policy(images, flips, rng)
    assert found.learned < 0.45  # by chance .3; the oracle has .76
    assert found.oracle > 0.6
