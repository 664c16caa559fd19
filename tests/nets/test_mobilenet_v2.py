import pytest
import torch

from doublure.nets.mobilenet_v2 import InvertedResidual, MobileNetV2
from doublure.nets.network import count_parameters


def mobilenet_v2(width=0.5, classes=10, channels=3):
    return MobileNetV2(width=width, classes=classes, channels=channels)


def test_the_half_width_count_is_the_published_one():
    assert count_parameters(mobilenet_v2(0.5, classes=100)) == 812836


def test_keys_are_those_of_the_public_checkpoints():
    keys = {key.rsplit(".", 1)[0] for key in mobilenet_v2().state_dict()}
    repetitions = (1, 2, 3, 4, 3, 3, 1)
    blocks = {
        f"blocks.{stage}.{unit}.conv.{layer}"
        for stage, num_units in enumerate(repetitions)
        for unit in range(num_units)
        for layer in (0, 1, 3, 4, 6, 7)
    }
    ends = {"conv1.0", "conv1.1", "conv2.0", "conv2.1", "classifier.0"}
    assert keys == blocks | ends


def test_the_last_width_is_never_narrowed():
    assert mobilenet_v2(0.5).classifier[0].in_features == 1280
    assert mobilenet_v2(1.5).classifier[0].in_features == 1920


def test_a_block_of_equal_shapes_adds_its_input():
    block = InvertedResidual(4, 4, stride=1, expansion=6)
    torch.nn.init.zeros_(block.conv[-1].weight)
    image = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(image), image)


def test_a_bottleneck_is_linear_at_its_end():
    block = InvertedResidual(4, 8, stride=1, expansion=2)
    assert block(torch.randn(4, 4, 6, 6)).lt(0).any()


def test_the_image_shrinks_sixteen_times():
    network = mobilenet_v2()
    x = network.conv1(torch.rand(1, 3, 32, 32))
    for stage in network.blocks:
        x = stage(x)
    assert x.shape == (1, 160, 2, 2)


def test_a_width_of_zero_is_refused():
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        mobilenet_v2(0.0)
