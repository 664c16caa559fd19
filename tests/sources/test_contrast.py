import math

import pytest
import torch
import torch.nn.functional as F

from doublure.nets.network import freeze
from doublure.sources.contrast import Contrast, contrastive_loss, local_views, spatial_means
from tests import tiny
from tests.tiny import rng


def test_two_images_by_hand():
    local = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    whole = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # batch: the first is right at logits (1, 1), so is the second at (0, 0)
    none = torch.empty(0, 2)
    assert contrastive_loss(local, whole, none, 1.0).item() == pytest.approx(math.log(2))
    bank = torch.tensor([[0.0, 1.0]])
    one, other = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    expected = math.log(2) + (one + other) / 2
    assert contrastive_loss(local, whole, bank, 1.0).item() == pytest.approx(expected)


def test_the_loss_is_a_float64_loop():
    local, whole, bank = (
        F.normalize(torch.randn(n, 5, generator=rng(n), dtype=torch.float64), dim=1)
        for n in (4, 4, 7)
    )
    whole = whole.flip(0)
    expected = 0.0
    for i in range(4):
        batch = [math.exp(float(local[i] @ other) / 0.2) for other in whole]
        old = [math.exp(float(local[i] @ other) / 0.2) for other in bank]
        expected -= math.log(batch[i] / sum(batch)) / 4
        expected -= math.log(batch[i] / (batch[i] + sum(old))) / 4
    assert contrastive_loss(local, whole, bank, 0.2).item() == pytest.approx(expected)


def test_the_whole_area_is_the_image_and_a_quarter_is_a_corner_enlarged():
    images = torch.rand(2, 1, 8, 8, generator=rng())
    one, none = torch.ones(2), torch.zeros(2)
    same = local_views(images, one, torch.rand(2, 2, generator=rng()), none)
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)
    mirrored = local_views(images, one, torch.zeros(2, 2), one)
    torch.testing.assert_close(mirrored, images.flip(3), atol=1e-5, rtol=0)
    blocks = (
        torch.rand(2, 1, 2, 2, generator=rng(1)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    )
    corner = local_views(blocks, one / 4, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), none)
    torch.testing.assert_close(corner[..., 2:, :6], blocks[..., 4:5, 0:1].expand(-1, -1, 6, 6),
                               atol=1e-5, rtol=0)  # fmt: skip


def test_features_are_each_images_means_of_what_enters_batchnorm():
    network = freeze(tiny.network(0))
    images = torch.rand(3, 1, 8, 8, generator=rng())
    with spatial_means(network) as seen:
        network(images)
    torch.testing.assert_close(seen[0], network[0](images).mean((2, 3)))
    assert all(not layer._forward_pre_hooks for layer in network.modules())


def test_views_of_one_image_come_together_and_the_bank_fills():
    images = torch.rand(16, 1, 8, 8, generator=rng())
    contrast = Contrast(freeze(tiny.network(0)), images[:2], 0.2, rng(1))
    told = []
    for step in range(60):
        told.append(contrast.loss(images, images, rng(step)).item())
        contrast.step()
    assert sum(told[-10:]) < 0.95 * sum(told[:10])
    assert len(contrast.state_dict()["bank"]) == 0
    contrast.remember()
    contrast.remember()
    assert len(contrast.state_dict()["bank"]) == 32
    again = Contrast(freeze(tiny.network(0)), images[:2], 0.2, rng(2))
    again.load_state_dict(contrast.state_dict())
    assert torch.equal(again.loss(images, images, rng(9)), contrast.loss(images, images, rng(9)))
