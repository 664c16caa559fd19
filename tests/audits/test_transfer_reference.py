import pytest
import torch
from torch import nn

from doublure.audits import transfer_reference
from doublure.audits.transfer_reference import cluster, reference_centres
from doublure.core.seeding import from_seed
from doublure.nets.network import Network, freeze
from doublure.sources.shaders import Shaders
from tests.tiny import CONTRACT

CPU = torch.device("cpu")


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(transfer_reference, "_IMAGES", 300)
    monkeypatch.setattr(transfer_reference, "_BATCH", 20)
    some = tuple(s for s in transfer_reference.FAMILIES if not isinstance(s, Shaders))
    monkeypatch.setattr(transfer_reference, "FAMILIES", some)


def test_clusters_far_apart_are_found():
    at = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    features = at.repeat(40, 1) + torch.randn(120, 2, generator=from_seed(0))
    centres = cluster(features, 3)
    assert torch.cdist(at, centres).amin(1).max() < 1.0
    assert torch.equal(cluster(features, 3), centres)


def test_there_are_never_more_clusters_than_images_can_fill():
    features = torch.randn(80, 2, generator=from_seed(0))
    assert len(cluster(features, 1000)) == 10
    assert len(cluster(torch.zeros(80, 2), 1000)) == 1


@pytest.mark.usefixtures("few_images")
def test_a_teacher_has_ten_clusters_a_class_or_none_without_features():
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert reference_centres(freeze(Network(body, CONTRACT)), CONTRACT, CPU).shape == (30, 64)
    body = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    assert reference_centres(freeze(Network(body, CONTRACT)), CONTRACT, CPU) is None


def test_shaders_are_among_the_reference():
    assert any(isinstance(source, Shaders) for source in transfer_reference.FAMILIES)
