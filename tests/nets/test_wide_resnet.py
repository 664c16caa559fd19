import pytest
import torch

from doublure.nets.network import count_parameters
from doublure.nets.wide_resnet import PreActivationBlock, WideResNet


def wide_resnet(depth=16, widen=1, classes=10, channels=3):
    return WideResNet(depth=depth, widen=widen, classes=classes, channels=channels)


# CIFAR-100, as the distillation literature tabulates them (0.70M, 2.26M, ...).
@pytest.mark.parametrize(
    ("depth", "widen", "parameters"),
    [(16, 2, 703284), (40, 1, 569780), (40, 2, 2255156), (28, 10, 36536884)],
)
def test_parameter_counts_are_the_published_ones(depth, widen, parameters):
    assert count_parameters(wide_resnet(depth, widen, classes=100)) == parameters


def test_keys_are_those_of_the_public_checkpoints():
    keys = {key.rsplit(".", 1)[0] for key in wide_resnet(10, 2).state_dict()}
    blocks = {
        f"block{stage}.layer.0.{layer}"
        for stage in (1, 2, 3)
        for layer in ("bn1", "conv1", "bn2", "conv2", "convShortcut")
    }
    assert keys == blocks | {"conv1", "bn1", "fc"}


def test_a_block_whose_last_convolution_is_zero_is_the_identity():
    block = PreActivationBlock(4, 4, 1)
    torch.nn.init.zeros_(block.conv2.weight)
    image = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(image), image)


def test_where_channels_change_the_activated_input_is_projected():
    block = PreActivationBlock(4, 8, 2).eval()  # BatchNorm in eval mode starts as the identity
    torch.nn.init.zeros_(block.conv2.weight)
    image = torch.randn(2, 4, 6, 6)
    activated = (image / (1 + block.bn1.eps) ** 0.5).relu()
    torch.testing.assert_close(block(image), block.convShortcut(activated))


def test_the_image_shrinks_four_times():
    network = wide_resnet(10)
    image = torch.rand(1, 3, 32, 32)
    maps = network.block3(network.block2(network.block1(network.conv1(image))))
    assert maps.shape == (1, 64, 8, 8)


def test_a_depth_that_fills_no_stage_is_refused():
    with pytest.raises(ValueError, match=r"depth must be 6n\+4 .* got 20"):
        wide_resnet(20)


def test_a_width_of_zero_is_refused():
    with pytest.raises(ValueError, match="widen must be at least 1, got 0"):
        wide_resnet(16, 0)
