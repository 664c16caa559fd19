import pytest
import torch
from torch import nn

from doublure.nets.network import count_parameters
from doublure.nets.vgg import VGG


def vgg(depth=8, classes=10, channels=3, size=(32, 32)):
    return VGG(depth=depth, classes=classes, channels=channels, size=size)


def smallest_map(network, size):
    seen = []
    network.block4.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape))
    network(torch.rand(2, 3, *size))
    return tuple(seen[0][2:])


# CIFAR-100, as the distillation literature tabulates them (3.97M, 9.46M).
@pytest.mark.parametrize(("depth", "parameters"), [(8, 3965028), (13, 9462180)])
def test_parameter_counts_are_the_published_ones(depth, parameters):
    assert count_parameters(vgg(depth, classes=100)) == parameters


def test_eleven_layers_have_weights_in_vgg11():
    layers = [layer for layer in vgg(11).modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 9  # eight convolutions and one linear layer where the paper has three


def test_keys_are_those_of_the_public_checkpoints():
    keys = {key.rsplit(".", 1)[0] for key in vgg(13).state_dict()}
    blocks = {f"block{stage}.{layer}" for stage in range(5) for layer in (0, 1, 3, 4)}
    assert keys == blocks | {"classifier"}


def test_a_block_answers_before_its_relu():
    network = vgg(8)
    assert network.block0(torch.randn(2, 3, 8, 8)).lt(0).any()


@pytest.mark.parametrize(("side", "left"), [(8, 1), (32, 4), (64, 4)])
def test_the_last_stage_sees_few_positions(side, left):
    assert smallest_map(vgg(8, size=(side, side)), (side, side)) == (left, left)


def test_a_network_keeps_its_poolings_when_images_shrink():
    assert smallest_map(vgg(8, size=(64, 64)), (32, 32)) == (2, 2)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="VGG needs images of at least 8 x 8 pixels, got 8 x 4"):
        vgg(8, size=(8, 4))


def test_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match="unknown VGG depth '12'"):
        vgg(12)
