from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from doublure.nets.builtin import build
from doublure.nets.find_readouts import end_readout, own_readout
from doublure.nets.linear_maps import linear_maps
from doublure.nets.readouts import read_map, read_rows
from tests import tiny


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(name, classes=3, channels=1, size=(8, 8)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=tiny.rng())
            nn.init.normal_(module.bias, generator=tiny.rng(1))
    return network


IMAGES = torch.rand(2, 1, 8, 8, generator=tiny.rng())


class Functional(nn.Module):
    """A block whose last ReLU no module is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 4, 1)

    def before(self, x):
        return self.conv2(F.relu(self.bn1(self.conv1(x)))) + self.shortcut(x)

    def forward(self, x):
        return F.relu(self.before(x))


def test_maps_come_in_the_order_of_calls_with_the_batchnorm_behind_them():
    maps = linear_maps(built("resnet8"), IMAGES)
    assert [(x.layer, x.norm) for x in maps[:3]] == [
        ("conv1", "bn1"),
        ("layer1.0.conv1", "layer1.0.bn1"),
        ("layer1.0.conv2", "layer1.0.bn2"),
    ]
    assert (maps[-1].layer, maps[-1].norm) == ("linear", None)


def test_a_layer_called_twice_is_no_map():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    assert linear_maps(nn.Sequential(layer, nn.ReLU(), layer), IMAGES) == ()


@pytest.mark.parametrize(
    ("name", "block", "layer", "hidden"),
    [
        ("resnet8", "layer2.0", "layer2.0.conv2", True),
        ("resnet8x4", "layer2.0", "layer2.0.conv2", True),
        ("wrn10-1", "block1.layer.0", "block1.layer.0.conv2", False),
        ("mobilenetv2-0.5", "blocks.1.1", "blocks.1.1.conv.6", False),
        ("vit-small", "blocks.2", "blocks.2.mlp.fc2", False),
    ],
)
def test_a_block_ends_with_its_last_map(name, block, layer, hidden):
    network = built(name)
    found = end_readout(network, IMAGES, block, linear_maps(network, IMAGES))
    assert found.map.layer == layer
    assert (found.shift > 0) == hidden
    torch.testing.assert_close(found.channels, torch.arange(len(found.channels)))
    torch.testing.assert_close(found.scale, torch.ones(len(found.scale)))


def test_shuffled_channels_are_found_where_they_went():
    network = built("shufflenetv2")
    found = end_readout(network, IMAGES, "layer1.2", linear_maps(network, IMAGES))
    assert found.map.layer == "layer1.2.conv3"
    torch.testing.assert_close(found.channels, 2 * torch.arange(58) + 1)


def test_behind_a_functional_relu_negative_values_are_read():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Sequential(Functional(), Functional()))
    network.eval()
    maps = linear_maps(network, IMAGES)
    found = end_readout(network, IMAGES, "1.0", maps)
    assert found.map.layer == "1.0.conv2"  # and not the shortcut, which is called last
    expected = network[1][0].before(network[0](IMAGES))
    assert (expected < 0).any()
    everywhere = tuple(torch.unravel_index(torch.arange(128), (2, 8, 8)))
    (rows, _), (after, _) = read_rows(
        network, IMAGES, [found, own_readout(network, maps[-1])], lambda i, shape: everywhere
    )
    torch.testing.assert_close(rows, expected.movedim(1, -1).flatten(0, 2), atol=1e-4, rtol=0)
    given, answer = read_map(network, partial(network, IMAGES), found)
    torch.testing.assert_close(found.rows(answer, everywhere), rows, atol=1e-5, rtol=0)
    assert given.shape == (2, 4, 8, 8)
    # What goes on behind a readout has seen no shift.
    shown = network[1][1].shortcut(network[1][0](network[0](IMAGES)))
    torch.testing.assert_close(after, shown.movedim(1, -1).flatten(0, 2), rtol=0, atol=0)


def test_a_gate_behind_the_last_map_hides_it():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

        def forward(self, x):
            answer = self.conv(x)
            return answer * self.gate(answer).sigmoid()

    torch.manual_seed(0)
    network = nn.Sequential(Gated())
    assert end_readout(network, IMAGES, "0", linear_maps(network, IMAGES)) is None


def test_no_hook_stays_behind():
    network = built("resnet8")
    maps = linear_maps(network, IMAGES)
    found = end_readout(network, IMAGES, "layer1.0", maps)
    read_map(network, partial(network, IMAGES), found)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
