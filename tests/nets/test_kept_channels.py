import torch
from torch import nn

from doublure.nets.blocks import find_counterparts
from doublure.nets.builtin import build
from doublure.nets.channels import Channels, trace_channels
from doublure.nets.kept_channels import KeptChannels, copy_kept_, keep_channels
from doublure.nets.network import Network
from tests import tiny


def traced(name: str) -> tuple[nn.Module, Channels]:
    body = build(name, classes=3, channels=1, size=(8, 8))
    return body, trace_channels(Network(body, tiny.CONTRACT))


def kept(student: str, teacher: str, important: dict[str, list[int]]) -> KeptChannels:
    """Return what is kept where these outputs of the teacher's layers are important."""
    (body, ours), (other, theirs) = traced(student), traced(teacher)
    importance = {}
    for layer, channels in important.items():
        for channel in channels:
            importance[int(theirs.layers[layer][1][channel])] = 1.0
    return keep_channels(ours, theirs, find_counterparts(body, other), importance)


def test_the_important_channels_are_kept_in_their_order():
    found = kept("convnet-2", "convnet-4", {"bn1": [3, 1], "bn2": [7, 0, 2, 5]})
    assert found.layers["conv1"][1].tolist() == [1, 3]
    assert found.layers["conv2"][0].tolist() == [1, 3]
    assert found.layers["conv2"][1].tolist() == [0, 2, 5, 7]
    assert found.layers["linear"][1].tolist() == [0, 1, 2]


def test_of_equal_width_every_channel_stays_in_its_place():
    found = kept("resnet8", "resnet20", {"bn1": [15]})
    for name, (inputs, outputs) in found.layers.items():
        assert torch.equal(inputs, torch.arange(len(inputs))), name
        assert torch.equal(outputs, torch.arange(len(outputs))), name


def test_a_residual_stream_keeps_the_same_channels_throughout():
    found = kept("resnet8-0.5", "resnet20", {"bn1": list(range(1, 16, 2))})
    odd = list(range(1, 16, 2))
    assert found.layers["conv1"][1].tolist() == odd
    assert found.layers["layer1.0.conv1"][0].tolist() == odd
    assert found.layers["layer1.0.bn2"][1].tolist() == odd
    # In the next stage they stand between the zeros: 8 before at the teacher's, 4 at the student's.
    stream = found.layers["layer2.0.conv2"][1]
    assert stream[4:12].tolist() == [8 + channel for channel in odd]
    assert sorted(stream.tolist()) == stream.tolist()


def test_a_wider_student_has_channels_that_stand_for_none():
    found = kept("convnet-3", "convnet-2", {})
    assert found.layers["conv1"][1].tolist() == [0, 1, -1]
    assert found.layers["conv2"][0].tolist() == [0, 1, -1]


def test_places_in_another_layer_of_the_same_stream():
    found = kept("resnet8-0.5", "resnet20", {"bn1": list(range(8))})
    assert found.places_in("layer1.0.conv2", "layer1.2.conv2").tolist() == list(range(8))
    assert found.places_in("layer1.0.conv2", "layer1.2.relu") is None


def test_weights_of_what_is_kept_are_copied_and_others_have_no_effect_on_it():
    ours, theirs = nn.Conv2d(2, 3, 3), nn.Conv2d(4, 4, 3)
    fresh = ours.weight[1].clone()
    names = copy_kept_(ours, theirs, torch.tensor([3, -1]), torch.tensor([0, -1, 2]))
    assert names == ("weight", "bias")
    assert torch.equal(ours.weight[0, 0], theirs.weight[0, 3])
    assert torch.equal(ours.weight[2, 0], theirs.weight[2, 3])
    assert not ours.weight[[0, 2], 1].any()
    assert torch.equal(ours.weight[1], fresh)
    assert torch.equal(ours.bias[[0, 2]], theirs.bias[[0, 2]])


def test_a_depthwise_layer_is_copied_by_its_channels():
    ours, theirs = nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(4, 4, 3, groups=4)
    places = torch.tensor([1, 3])
    copy_kept_(ours, theirs, places, places)
    assert torch.equal(ours.weight, theirs.weight[places])


def test_a_kernel_of_another_size_is_not_copied():
    ours, theirs = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 3, bias=False)
    before = ours.weight.clone()
    assert copy_kept_(ours, theirs, torch.arange(2), torch.arange(2)) == ()
    assert torch.equal(ours.weight, before)
