import pytest
import torch

from doublure.nets.builtin import build, names
from doublure.nets.network import count_parameters

ONE_OF_EACH_FAMILY = (
    "resnet8",
    "resnet18",
    "resnet8x4",
    "wrn16-1",
    "vgg8",
    "mobilenetv2-0.5",
    "shufflenetv2",
    "vit-small",
    "convnet-6",
)


@pytest.mark.parametrize("name", names())
def test_every_documented_name_is_built(name):
    with torch.device("meta"):
        network = build(name, classes=7)
        assert network(torch.empty(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
@pytest.mark.parametrize("side", [8, 32])
def test_digits_and_pictures_of_one_channel_work(name, side):
    network = build(name, classes=10, channels=1, size=(side, side)).eval()
    assert network(torch.rand(2, 1, side, side)).shape == (2, 10)


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_training_in_bfloat16_and_channels_last_reaches_every_parameter(name):
    torch.manual_seed(0)
    network = build(name, classes=10, size=(16, 16)).to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 16, 16).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(images).logsumexp(1).mean()
    loss.backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_exported_programs_take_any_number_of_images(name):
    network = build(name, classes=10).eval()
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(network, (torch.rand(2, 3, 32, 32),), dynamic_shapes=(batch,))
    images = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(program.module()(images), network(images))


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_the_same_global_seed_gives_the_same_weights(name):
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(build(name, classes=10).state_dict())
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])


def test_families_reach_beyond_the_documented_names():
    assert count_parameters(build("resnet20-0.5", classes=10)) < 269722 / 3
    assert build("wrn22-4", classes=10).fc.in_features == 256
    assert build("convnet-32", classes=10).linear.in_features == 128


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet-20", "resnet20"),
        ("resnet50", "resnet56"),
        ("mobilenet-v2", "mobilenetv2"),
        ("vgg16", "vgg13"),
        ("WRN16-2", "wrn16-2"),
    ],
)
def test_an_unknown_name_is_answered_with_a_near_one(name, nearest):
    with pytest.raises(ValueError, match=f"unknown .* '{name}'; did you mean '{nearest}'"):
        build(name, classes=10)


def test_a_wide_network_of_impossible_depth_says_which_depths_exist():
    with pytest.raises(ValueError, match=r"depth must be 6n\+4"):
        build("wrn20-2", classes=10)
