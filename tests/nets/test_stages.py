import copy

import pytest
import torch
from torch import Tensor, nn

from doublure.core.protocols import InputContract
from doublure.nets import builtin
from doublure.nets.features import FeatureRecorder, layers_where
from doublure.nets.network import Network
from doublure.nets.stages import find_layers, find_stages

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CONTRACT = InputContract(size=(32, 32), channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, classes=10)


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return builtin.build(name, classes=10)


@pytest.mark.parametrize(
    ("name", "names", "shapes"),
    [
        (
            "resnet8",
            ["layer1", "layer2", "layer3"],
            [(16, 32, 32), (32, 16, 16), (64, 8, 8)],
        ),
        (
            "vgg8",
            ["block0", "block1", "block2", "block4"],
            [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)],
        ),
        (
            "mobilenetv2-0.5",
            ["blocks.1", "blocks.2", "blocks.4", "conv2"],
            [(12, 16, 16), (16, 8, 8), (48, 4, 4), (1280, 2, 2)],
        ),
        (
            "shufflenetv2",
            ["bn1", "layer1", "layer2", "bn2"],
            [(24, 32, 32), (116, 16, 16), (232, 8, 8), (1024, 4, 4)],
        ),
        ("wrn16-1", ["block1", "block2", "bn1"], [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("vit-small", ["blocks.1", "blocks.3", "blocks.5"], [(192, 8, 8)] * 3),
    ],
)
def test_stages_of_a_family_end_where_the_image_shrinks(name, names, shapes):
    ends = find_stages(built(name), IMAGES).ends
    assert [end.name for end in ends] == names
    assert [end.shape for end in ends] == shapes


def test_depth_is_the_share_of_layers_with_weights_that_was_passed():
    # resnet8: a stem, three blocks of two convolutions, a linear layer
    depths = [end.depth for end in find_stages(built("resnet8"), IMAGES).ends]
    assert depths == [3 / 8, 5 / 8, 7 / 8]


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "mobilenetv2-0.5", "vit-small"])
def test_the_features_are_what_enters_the_classifier(name):
    network = built(name).eval()
    stages = find_stages(network, IMAGES)
    with FeatureRecorder(network, (stages.features.name,)) as recorder:
        outputs = recorder.record(IMAGES)
    features = stages.features.as_vector(outputs.features[stages.features.name])
    head = network.get_submodule(stages.classifier)
    torch.testing.assert_close(head(features), outputs.output)


def sides(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return what enters and what leaves the activation of each stage."""
    ends = find_stages(network, IMAGES).ends
    layers = [(end.before_activation(), end.after_activation()) for end in ends]
    names = [layer.name for pair in layers for layer in pair]
    with FeatureRecorder(network.eval(), names) as recorder, torch.no_grad():
        seen = recorder.record(IMAGES).features
    return [tuple(layer.as_map(seen[layer.name]) for layer in pair) for pair in layers]


@pytest.mark.parametrize("name", ["convnet-6", "resnet8", "resnet18", "vgg8", "wrn16-1", "wrn16-2"])
def test_around_the_activation_of_a_stage_signs_are_lost(name):
    for entering, leaving in sides(built(name)):
        assert entering.lt(0).any()
        assert torch.equal(entering.relu(), leaving)


@pytest.mark.parametrize("name", ["wrn16-1", "wrn40-2"])
def test_of_a_pre_activation_network_a_stage_goes_on_as_the_batchnorm_of_the_next(name):
    network = built(name)
    # The signs of the sum are not those of its BatchNorm.
    network.block2.layer[0].bn1.running_mean.fill_(1.0)
    with FeatureRecorder(network.eval(), ("block1", "block2.layer.0.conv1:input")) as recorder:
        seen = recorder.record(IMAGES).features
    entering, leaving = sides(network)[0]
    assert torch.equal(leaving, seen["block2.layer.0.conv1:input"])
    assert torch.equal(entering, network.block2.layer[0].bn1(seen["block1"]))
    assert ((entering > 0) != (seen["block1"] > 0)).float().mean() > 0.1


def test_a_stage_without_an_activation_is_its_answer_on_both_sides():
    # MobileNetV2's linear bottleneck, ShuffleNetV2's shuffled halves, tokens
    for name, end in (("mobilenetv2-0.5", 0), ("shufflenetv2", 1), ("vit-small", 0)):
        entering, leaving = sides(built(name))[end]
        assert torch.equal(entering, leaving)
    assert sides(built("shufflenetv2"))[1][0].ge(0).all()


class Block(nn.Module):
    """One layer that is called twice; the activation in place, or with weights."""

    def __init__(self, stride: int, activation: nn.Module):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, stride, padding=1)
        self.act = activation
        self.out = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.act(self.out(self.act(self.conv(x))))


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.PReLU(init=0.1), nn.GELU()])
def test_a_layer_that_activates_twice_is_tapped_where_it_does_so_last(activation):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Block(1, activation), Block(2, activation))
    with torch.no_grad():
        for entering, leaving in sides(network):
            assert torch.equal(activation(entering.clone()), leaving)


def test_an_activation_with_weights_is_tapped_behind_itself():
    blocks = [nn.Conv2d(4, 4, 3, stride, padding=1) for stride in (1, 2)]
    network = nn.Sequential(nn.Conv2d(3, 4, 1), blocks[0], nn.PReLU(), blocks[1], nn.PReLU())
    ends = find_stages(network, IMAGES).ends
    assert [end.after_activation().name for end in ends] == ["2", "4"]


def test_of_many_images_few_are_looked_at():
    shown = []
    network = built("resnet8")
    network.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    find_stages(network, IMAGES.repeat(50, 1, 1, 1))
    assert shown == [4]


def test_tokens_are_read_as_the_map_of_their_patches():
    network = built("vit-small").eval()
    end = find_stages(network, IMAGES).ends[-1]
    tokens = torch.arange(65 * 192.0).view(1, 65, 192)
    grid = end.as_map(tokens)
    assert grid.shape == (1, 192, 8, 8)
    assert torch.equal(grid[0, :, 0, 0], tokens[0, 1])  # the first token is the class token
    assert torch.equal(grid[0, :, 1, 0], tokens[0, 9])


def test_the_network_stays_as_it_is():
    network = Network(built("resnet8"), CONTRACT).train()
    before = copy.deepcopy(network.state_dict())
    find_stages(network, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_pooling_and_gates_end_no_stage():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())

        def forward(self, x):
            x = self.conv(x)
            return x * self.gate(x)

    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        Gated(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    stages = find_stages(network, IMAGES)
    assert [end.name for end in stages.ends] == ["1", "3"]
    assert stages.features.name == "6:input"


def test_blocks_of_one_size_are_divided_into_thirds():
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(6)]
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Sequential(*blocks))
    assert [end.name for end in find_stages(network, IMAGES).ends] == ["1.1", "1.3", "1.5"]


def test_a_network_without_maps_is_refused_with_the_way_out():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(ValueError, match=r"no layer that returns a map.*name the layers"):
        find_stages(network, IMAGES)


def test_layers_are_found_by_name_and_by_predicate():
    network = built("resnet8")
    names = layers_where(network, lambda _, layer: isinstance(layer, nn.BatchNorm2d))
    assert len(names) == 7
    assert find_layers(network, IMAGES, names)[-1].shape == (64, 8, 8)
    assert find_layers(network, IMAGES, ("linear:input",))[0].shape == (64, 1, 1)


def test_an_unknown_layer_is_refused():
    with pytest.raises(ValueError, match="unknown layer to tap 'layer9'"):
        find_layers(built("resnet8"), IMAGES, ("layer9",))
