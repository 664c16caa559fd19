import json
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from doublure.audits.input_contract import inspect_network, not_finite
from doublure.audits.normalisation import CANDIDATES, Normalisation
from doublure.core.protocols import InputContract
from doublure.nets.builtin import build
from doublure.nets.network import Network
from tests.audits.photographs import photographs


def contract(name="imagenet", channels=3, classes=10):
    known = CANDIDATES[name]
    return InputContract(
        size=(32, 32),
        channels=channels,
        mean=known.mean[:channels],
        std=known.std[:channels],
        classes=classes,
    )


def network(body=None, name="imagenet", channels=3):
    torch.manual_seed(0)
    body = build("convnet-16", classes=10, channels=channels) if body is None else body
    return Network(body, contract(name, channels))


def shown(body, name):
    """`body` after its BatchNorms have seen photographs normalised by the candidate `name`."""
    made = network(body, name)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # running figures become plain averages
    made.train()
    with torch.no_grad():
        made(photographs(128))
    return made.eval()


@cache
def shown_convnet(name):
    return shown(None, name)


def restated(made, name):
    return Network(made.body, contract(name))


def verdict_of(made):
    return inspect_network(made).verdict


def normalisation_of(made):
    return inspect_network(made).measurements["normalisation"]


def test_the_photographs_of_these_tests_are_like_photographs():
    images = photographs(256)
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0.49, 0.47, 0.43], abs=0.03)
    assert images.std((0, 2, 3)).tolist() == pytest.approx([0.25] * 3, abs=0.03)


def test_counts_by_hand():
    measurements = inspect_network(network()).measurements
    # 3x3 convolutions 3-16-32-64, BatchNorm, 64 x 10 + 10; see also the buffers' three counters.
    parameters = 9 * (3 * 16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 650
    buffers = 2 * (16 + 32 + 64) + 3
    assert measurements["parameters"] == parameters
    assert measurements["buffers"] == buffers
    assert measurements["weight_bytes"] == 4 * parameters + 4 * (buffers - 3) + 8 * 3
    assert measurements["layers"] == {"Conv2d": 3, "BatchNorm2d": 3, "Linear": 1}
    assert measurements["batchnorm_layers"] == 3


def test_operations_by_hand():
    measurements = inspect_network(network()).measurements
    convolutions = 9 * (3 * 16 * 32**2 + 16 * 32 * 16**2 + 32 * 64 * 8**2)
    assert measurements["flops_per_image"] == 2 * (convolutions + 64 * 10)


def test_attention_is_counted():
    body = build("vit-small", classes=10)
    tokens, dim, layers = 65, 192, 6
    linear = 64 * 48 * dim + layers * 12 * tokens * dim**2 + dim * 10
    attention = layers * 2 * tokens**2 * dim
    assert inspect_network(network(body)).measurements["flops_per_image"] == 2 * (
        linear + attention
    )


def test_the_contract_is_told():
    measurements = inspect_network(network()).measurements
    assert measurements["size"] == (32, 32)
    assert measurements["classes"] == 10
    assert measurements["mean"] == (0.485, 0.456, 0.406)


def test_figures_are_plain_values():
    json.dumps(dict(inspect_network(shown_convnet("imagenet")).measurements), allow_nan=False)


def test_looking_changes_nothing():
    made = shown(None, "imagenet").train()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    inspect_network(made)
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items())
    assert all(layer.training for layer in made.modules())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in made.modules())


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_right_normalisation_is_not_doubted(name):
    made = shown_convnet(name)
    assert verdict_of(made) == "ok"
    assert name in normalisation_of(made)["equally_likely"]


# Nobody can tell the first pair apart; the second, a factor of two in contrast, is the edge.
ALIKE = ({"imagenet", "cifar10"}, {"symmetric", "cifar10"})
FAR = [(a, b) for a in CANDIDATES for b in CANDIDATES if a != b and {a, b} not in ALIKE]


@pytest.mark.parametrize(("name", "stated"), FAR)
def test_a_wrong_normalisation_is_doubted(name, stated):
    assert verdict_of(restated(shown_convnet(name), stated)) == "warn"


@pytest.mark.parametrize(("name", "stated"), [("imagenet", "cifar10"), ("cifar10", "imagenet")])
def test_a_nearly_right_one_is_not(name, stated):
    assert verdict_of(restated(shown_convnet(name), stated)) == "ok"


@pytest.mark.parametrize("architecture", ["wrn16-1", "vgg8", "mobilenetv2-0.5", "shufflenetv2"])
def test_biases_strides_and_late_batchnorms_are_understood(architecture):
    made = shown(build(architecture, classes=10), "imagenet")
    reading = normalisation_of(made)["stated"]
    assert reading["implied_mean"] == pytest.approx((0.49, 0.47, 0.43), abs=0.03)
    assert reading["implied_std"] == pytest.approx(0.25, abs=0.04)


def test_a_doubt_says_what_to_state_instead():
    finding = inspect_network(restated(shown_convnet("symmetric"), "unit"))
    assert "the stated normalisation (mean 0 0 0, std 1 1 1) is doubtful" in finding.summary
    assert "if that is right, state mean 0.5 0.5 0.5, std 0.5 0.5 0.5" in finding.summary


def test_a_swap_of_red_and_blue_is_not_claimed_to_be_seen():
    body = shown_convnet("imagenet").body
    swapped = Normalisation(mean=(0.406, 0.456, 0.485), std=(0.225, 0.224, 0.229))
    stated = InputContract(
        size=(32, 32), channels=3, mean=swapped.mean, std=swapped.std, classes=10
    )
    finding = inspect_network(Network(body, stated))
    assert finding.verdict == "ok"
    assert finding.measurements["normalisation"]["channel_order"] == "cannot be told"


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = build("convnet-16", classes=10)

    def forward(self, x):
        return self.inner(2 * x)


def without_statistics():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.Flatten()
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda: build("vit-small", classes=10), "no BatchNorm follows the first convolution"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), "has no convolution"),
        (lambda: build("convnet-16", classes=10), "has seen no images yet"),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(1)), "works in groups"),
        (Scaled, "does not see the normalised image itself"),
        (without_statistics, "keeps no running statistics"),
    ],
)
def test_where_nothing_can_be_read_nothing_is_doubted(body, reason):
    finding = inspect_network(network(body()))
    if finding.verdict == "ok":
        assert "not checkable" in finding.summary
    assert reason in finding.measurements["normalisation"]["reason"]


def test_a_first_layer_of_few_filters_is_not_judged():
    made = shown(build("convnet-5", classes=10), "imagenet")
    assert "too few filters" in normalisation_of(made)["reason"]


def test_grey_images_are_not_judged():
    finding = inspect_network(network(channels=1))
    assert finding.verdict == "ok"
    assert "only colour photographs are known" in finding.summary


def test_a_weight_that_is_not_a_number_fails_by_name():
    made = network()
    with torch.no_grad():
        made.body.conv2.weight[0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    finding = inspect_network(made)
    assert finding.verdict == "fail"
    assert "'conv2.weight' holds 2 NaN or infinite value(s)" in finding.summary
    assert finding.measurements["not_finite"] == {"conv2.weight": 2}


def test_statistics_that_are_not_numbers_fail_too():
    made = network()
    made.body.bn1.running_var[3] = float("nan")
    made.body.linear.bias.data[0] = float("nan")
    finding = inspect_network(made)
    assert not_finite(made.body) == {"bn1.running_var": 1, "linear.bias": 1}
    assert "as does 1 other tensor" in finding.summary


def test_the_wrong_number_of_classes_fails():
    finding = inspect_network(Network(build("convnet-16", classes=100), contract(classes=10)))
    assert finding.verdict == "fail"
    assert "answers with 100 numbers, but 10 classes are stated" in finding.summary


def test_the_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="the network cannot take the stated 3 x 32 x 32 image"):
        inspect_network(network(build("convnet-16", classes=10, channels=1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CANDIDATES)
def test_networks_that_were_trained_are_read_as_well(name):
    made = train_on_brightness(name)
    assert verdict_of(made) == "ok"
    doubted = {other for other in CANDIDATES if verdict_of(restated(made, other)) == "warn"}
    assert len(doubted) >= 4


def train_on_brightness(name, steps=150):
    """A network that has learned which quarter of an image is the brightest."""
    images = photographs(1024)
    labels = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1).argmax(1)
    made = network(name=name).train()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        chosen = torch.randint(len(images), (32,), generator=rng)
        optimizer.zero_grad()
        F.cross_entropy(made(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return made.eval()


@pytest.mark.parametrize("depth", [20, 56])
@pytest.mark.parametrize(
    ("stated", "verdict"),
    [
        ("imagenet", "ok"),  # true
        ("cifar10", "ok"),  # cannot be told apart
        ("unit", "warn"),
        ("bytes", "warn"),
        ("symmetric", "warn"),
        ("centred_bytes", "warn"),
    ],
)
def test_public_checkpoints_are_doubted_where_they_should_be(real_data, depth, stated, verdict):
    finding = inspect_network(Network(public_resnet(real_data, depth), contract(stated)))
    assert finding.verdict == verdict
    assert finding.measurements["normalisation"]["candidates"][0]["name"] == "imagenet"


def public_resnet(folder, depth):
    body = build(f"resnet{depth}", classes=10)
    (path,) = (folder / "cifar10-resnet").glob(f"resnet{depth}-*.th")
    weights = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    body.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    return body


def test_answers_that_are_probabilities_are_doubted():
    body = nn.Sequential(build("convnet-16", classes=10), nn.Softmax(-1))
    found = inspect_network(network(body))
    assert found.verdict == "warn"
    assert found.summary.startswith("the network returns probabilities, not logits")


def test_answers_that_hang_on_the_batch_are_doubted():
    by_batch = nn.BatchNorm2d(10, track_running_stats=False)
    body = nn.Sequential(nn.Conv2d(3, 10, 3), by_batch, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = inspect_network(network(body))
    assert found.verdict == "warn"
    assert found.summary.startswith("the network depends on the other images of a batch")


def test_one_number_for_an_image_is_a_fault():
    found = inspect_network(Network(build("convnet-16", classes=1), contract(classes=1)))
    assert found.verdict == "fail"
    assert found.summary.startswith("the network has a single output")
