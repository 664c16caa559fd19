import pytest
import torch
from torch import nn

from doublure.nets.noisy_layer import NoisyLayers, label_embeddings
from tests import tiny
from tests.tiny import rng


def test_embeddings_are_the_rows_of_the_last_linear_layer_of_as_many_classes():
    teacher = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 5), nn.Linear(5, 3), nn.Linear(3, 2))
    rows = label_embeddings(teacher, 3, rng())
    torch.testing.assert_close(rows, nn.functional.normalize(teacher[2].weight.detach()))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


def test_without_such_a_layer_they_are_random_and_orthogonal():
    rows = label_embeddings(nn.Conv2d(1, 7, 3), 7, rng())
    torch.testing.assert_close(rows @ rows.T, torch.eye(7), atol=1e-5, rtol=0)
    assert not torch.equal(rows, label_embeddings(nn.Conv2d(1, 7, 3), 7, rng(1)))


@pytest.mark.parametrize(("num_images", "blocks"), [(3, 1), (8, 3), (9, 3)])
def test_a_layer_serves_one_image_of_every_class(num_images, blocks):
    rows = label_embeddings(tiny.network(0), 3, rng())
    layers = NoisyLayers(rows, 5, num_images, rng())
    assert layers.weight.shape == (blocks, 5, 16)
    codes = layers()
    assert codes.shape == (num_images, 5)
    assert layers.labels.tolist() == [i % 3 for i in range(num_images)]
    told = layers.norm(rows)
    expected = told[1] @ layers.weight[-1].T + layers.bias[-1, 0]
    last = (blocks - 1) * 3 + 1
    if last < num_images:
        torch.testing.assert_close(codes[last], expected)


def test_each_batch_has_layers_of_its_own():
    rows = label_embeddings(tiny.network(0), 3, rng())
    one, same, other = (NoisyLayers(rows, 64, 6, rng(seed)).weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.std().item() == pytest.approx(1.0, abs=0.05)
