import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from doublure.compress.pruning import Pruning
from doublure.compress.repair import least_squares, patches_at, repair
from doublure.core.protocols import image_batch
from doublure.core.seeding import from_seed
from doublure.nets.channels import trace_channels
from doublure.nets.network import Network, count_parameters
from doublure.nets.pruned import narrow_
from tests import tiny
from tests.compress.test_pruning import CONTRACT, made
from tests.taught import accuracy, images_and_labels, teacher


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=from_seed(seed), dtype=torch.float64)


def test_without_a_ridge_it_is_the_closed_form():
    inputs, answers, start = drawn(40, 5), drawn(40, 3, seed=1), drawn(3, 5, seed=2)
    weight, constant = least_squares(inputs, answers, start, 0.0, constant=True)
    ones = torch.cat((inputs, torch.ones(40, 1)), 1)
    expected = torch.linalg.lstsq(ones, answers).solution
    torch.testing.assert_close(weight, expected[:-1].T)
    torch.testing.assert_close(constant, expected[-1])


def test_a_large_ridge_leaves_the_weights_where_they_were():
    inputs, answers, start = drawn(40, 5), drawn(40, 3, seed=1), drawn(3, 5, seed=2)
    weight, constant = least_squares(inputs, answers, start, 1e9, constant=False)
    torch.testing.assert_close(weight, start, rtol=0, atol=1e-7)
    assert constant.tolist() == [0.0] * 3


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("constant", [False, True])
def test_the_error_is_never_above_that_of_the_weights_that_were_left(ridge, constant):
    inputs, answers, start = drawn(30, 5), drawn(30, 3, seed=1), drawn(3, 5, seed=2)
    weight, bias = least_squares(inputs, answers, start, ridge, constant=constant)
    after = (answers - inputs @ weight.T - bias).square().sum()
    assert after <= (answers - inputs @ start.T).square().sum()


def test_fewer_samples_than_unknowns_have_a_solution():
    weight, _ = least_squares(drawn(2, 9), drawn(2, 3), drawn(3, 9), 1e-3, constant=True)
    assert weight.isfinite().all()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.Conv2d(3, 4, (3, 1), stride=(2, 1), padding=(1, 2), bias=False),
        nn.Conv2d(3, 4, 3, dilation=2, padding="same", padding_mode="reflect", bias=False),
        nn.Linear(3, 4, bias=False),
    ],
)
def test_patches_times_weights_are_what_the_layer_answers(layer):
    inputs = torch.rand(2, 3, 7, 6) if isinstance(layer, nn.Conv2d) else torch.rand(9, 3)
    rows = layer(inputs).movedim(1, -1).flatten(0, -2)
    places = torch.tensor([0, 3, len(rows) - 1])
    found = patches_at(layer, inputs, places) @ layer.weight.flatten(1).T
    torch.testing.assert_close(found, rows[places])


class Two(nn.Module):
    """A hidden layer whose even channels are constant, and a layer that reads it."""

    def __init__(self, *, reads: nn.Module) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(1, 6, 1)
        self.reads, self.out = reads, nn.Linear(4, 3)
        with torch.no_grad():
            self.hidden.weight[::2] = 0.0
            self.hidden.bias[::2] = torch.tensor([0.3, 0.9, 1.7])

    def forward(self, inputs):
        x = self.reads(F.relu(self.hidden(inputs)))
        return self.out(x.mean((2, 3)))


def without_constant_channels(body: nn.Module) -> tuple[Network, Network, Network]:
    """Return a network, the same without its constant channels, and that repaired."""
    network = Network(body, CONTRACT).eval()
    channels = trace_channels(network)
    kept = channels.without(channels.layers["hidden"][1][::2].tolist())
    pruned = copy.deepcopy(network)
    narrow_(pruned.body, kept)
    images = torch.rand(16, 1, 8, 8, generator=from_seed(3))
    return network, pruned.eval(), repair(network, pruned, channels, kept, images, tiny.rng())


@pytest.mark.parametrize("bias", [True, False], ids=["a bias", "a BatchNorm"])
def test_constant_channels_are_made_up_for_without_a_rest(bias):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_mean)
    body = Two(reads=nn.Sequential(nn.Conv2d(6, 4, 1, bias=bias), norm))
    network, pruned, repaired = without_constant_channels(body)
    images = torch.rand(4, 1, 8, 8, generator=from_seed(4))
    wanted = network(images)
    assert (pruned(images) - wanted).abs().max() > 1e-2
    torch.testing.assert_close(repaired(images), wanted, rtol=0, atol=1e-5)


def test_a_constant_that_nothing_can_hold_is_left_out():
    torch.manual_seed(0)
    body = Two(reads=nn.Sequential(nn.Conv2d(6, 4, 1, bias=False)))
    network, pruned, repaired = without_constant_channels(body)
    images = torch.rand(16, 1, 8, 8, generator=from_seed(3))
    nets = (network, pruned, repaired)
    wanted, before, after = (net.body.reads(hidden(net, images)) for net in nets)
    assert 0 < (after - wanted).square().sum() < (before - wanted).square().sum()


def hidden(network: Network, images: torch.Tensor) -> torch.Tensor:
    return F.relu(network.body.hidden((images - 0.5) / 0.5))


@pytest.mark.parametrize("name", ["convnet-6", "resnet8-0.5", "resnet8x4", "vgg8", "wrn10-1"])
def test_families_are_repaired_and_what_came_in_stays(name):
    network = made(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    shown = [image_batch(torch.rand(64, 1, 8, 8, generator=from_seed(1)))]
    settings = {"ratio": 0.4, "importance": "l1"}
    plain = Pruning(**settings)(network, shown, tiny.rng())
    repaired = Pruning(**settings, repair=True)(network, shown, tiny.rng())
    assert count_parameters(repaired) == count_parameters(plain)
    wanted = network(shown[0].images)
    off = [(net.eval()(shown[0].images) - wanted).square().mean() for net in (plain, repaired)]
    assert off[1] < 0.7 * off[0]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad for p in repaired.parameters())


def test_a_pruned_digits_network_knows_more_digits_when_repaired():
    network = teacher()
    images, _ = images_and_labels("train")
    shown = [image_batch(images[:256])]
    scores = [
        accuracy(Pruning(ratio=0.5, repair=asked)(network, shown, tiny.rng()))
        for asked in (False, True)
    ]
    assert scores[1] > scores[0] + 0.1


def test_nothing_is_repaired_without_images():
    with pytest.raises(ValueError, match="repair needs images, got none; add some, or use"):
        Pruning(importance="l1", repair=True)(made("convnet-6"), None, tiny.rng())
