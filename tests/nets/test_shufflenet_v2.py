import torch

from doublure.nets.network import count_parameters
from doublure.nets.shufflenet_v2 import BasicUnit, ShuffleNetV2, shuffle_channels


def test_the_count_is_the_published_one():
    assert count_parameters(ShuffleNetV2(classes=100, channels=3)) == 1355528


def test_shuffling_interleaves_the_halves():
    image = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffle_channels(image).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_a_unit_passes_half_of_the_channels_by():
    image = torch.randn(2, 8, 5, 5)
    assert torch.equal(BasicUnit(8)(image)[:, ::2], image[:, :4])


def test_the_image_shrinks_eight_times():
    network = ShuffleNetV2(classes=10, channels=3)
    x = network.bn1(network.conv1(torch.rand(1, 3, 32, 32)))
    assert network.layer3(network.layer2(network.layer1(x))).shape == (1, 464, 4, 4)


def test_keys_are_those_of_the_public_checkpoints():
    keys = {key.rsplit(".", 1)[0] for key in ShuffleNetV2(classes=10, channels=3).state_dict()}
    units = {
        f"layer{stage}.{unit}.{kind}{number}"
        for stage, num_units in ((1, 4), (2, 8), (3, 4))
        for unit in range(num_units)
        for kind in ("conv", "bn")
        for number in range(1, 6 if unit == 0 else 4)
    }
    assert keys == units | {"conv1", "bn1", "conv2", "bn2", "linear"}
