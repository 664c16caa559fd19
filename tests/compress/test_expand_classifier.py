import pytest
import torch

from doublure.compress.expand_classifier import ExpandClassifier
from doublure.nets.network import Network
from doublure.networks import load, save
from tests import tiny


@pytest.fixture
def network() -> Network:
    return load("builtin/convnet-6", like=tiny.CONTRACT)


def test_old_logits_stay_bit_for_bit(network):
    wide = ExpandClassifier(num_new=2)(network, None, tiny.rng())
    images = torch.rand(4, 1, 8, 8)
    before, after = network.eval()(images), wide.eval()(images)
    assert after.shape == (4, 5)
    torch.testing.assert_close(after[:, :3], before, rtol=1e-6, atol=1e-6)
    assert network.contract.classes == 3
    assert wide.contract.classes == 5


def test_a_widened_network_is_read_back(network, tmp_path):
    wide = ExpandClassifier(num_new=2, names=("x", "y"))(network, None, tiny.rng())
    save(wide, tmp_path)
    again = load(str(tmp_path))
    assert tiny.same_weights(again, wide)
    assert again.contract.names == ("0", "1", "2", "x", "y")


def test_the_same_seed_draws_the_same_rows(network):
    one, other = (ExpandClassifier(num_new=2)(network, None, tiny.rng()) for _ in range(2))
    assert tiny.same_weights(one, other)


def test_a_class_that_is_known_is_refused(network):
    wide = ExpandClassifier(num_new=1, names=("x",))(network, None, tiny.rng())
    with pytest.raises(ValueError, match="the class 'x' exists already"):
        ExpandClassifier(num_new=1, names=("x",))(wide, None, tiny.rng())


def test_a_network_without_a_linear_head_is_refused():
    body = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 8), torch.nn.Flatten())
    with pytest.raises(ValueError, match="no linear layer of Sequential has an output for each"):
        ExpandClassifier(num_new=1)(Network(body, tiny.CONTRACT), None, tiny.rng())
