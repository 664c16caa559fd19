"""Weights fit an architecture, or one line says why not and what they look like."""

import pytest
import torch
from torch import Tensor, nn

from doublure.nets import builtin
from doublure.nets.state_dicts import builtin_of, count_from_weights, load_state_


def fit(
    network: nn.Module, state: dict[str, Tensor], classes: int = 10, channels: int = 3
) -> tuple[str, ...]:
    return load_state_(
        network,
        state,
        reference="the network",
        weights="w.pth",
        classes=classes,
        channels=channels,
        size=(32, 32),
    )


def state_of(name: str, classes: int = 10, channels: int = 3) -> dict[str, Tensor]:
    return dict(builtin.build(name, classes=classes, channels=channels).state_dict())


def test_weights_that_fit_are_copied():
    network, state = builtin.build("resnet8", classes=10), state_of("resnet8")
    fit(network, state)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_weights_older_than_the_batch_counter_fit():
    network, state = builtin.build("resnet8", classes=10), state_of("resnet8")
    fit(network, {name: value for name, value in state.items() if "num_batches" not in name})
    assert torch.equal(network.state_dict()["linear.weight"], state["linear.weight"])
    assert network.state_dict()["bn1.num_batches_tracked"] == 0


def test_half_precision_fits_single_precision():
    network, state = nn.Linear(2, 3), nn.Linear(2, 3).state_dict()
    fit(network, {name: value.bfloat16() for name, value in state.items()})
    assert network.weight.dtype == torch.float32
    torch.testing.assert_close(network.weight, state["weight"], atol=0.0, rtol=2**-8)


def test_what_belongs_to_no_part_of_the_network_is_left_out_and_named():
    network, state = builtin.build("resnet8", classes=10), state_of("resnet8")
    extra = {"aux.fc.weight": torch.ones(2), "criterion.weight": torch.ones(10)}
    extra |= {"conv1.total_ops": torch.ones(1), "bn1._extra_state": torch.ones(2)}
    notes = fit(network, {**state, **extra})
    assert notes == (
        "w.pth holds more than the network has; left out: aux.fc.weight, criterion.weight",
    )
    assert torch.equal(network.linear.weight, state["linear.weight"])


@pytest.mark.parametrize("change", [Tensor.float, lambda count: count.view(1)])
def test_counts_of_batches_fit_in_any_form(change):
    network, state = builtin.build("resnet8", classes=10), state_of("resnet8")
    fit(network, {n: change(t) if "num_batches" in n else t for n, t in state.items()})
    assert network.bn1.num_batches_tracked.dtype == torch.int64


def test_numbers_that_no_training_yields_are_warned_of():
    state = state_of("resnet8")
    state["conv1.weight"][0, 0, 0, 0] = 1e38
    (note,) = fit(builtin.build("resnet8", classes=10), state)
    assert "'conv1.weight' has values up to 1.0e+38" in note


def test_of_a_network_and_its_average_the_network_is_taken_and_it_is_said():
    state = state_of("resnet8")
    both = {f"ema_model.{name}": value + 1 for name, value in state.items()}
    both |= {f"model.{name}": value for name, value in state.items()}
    network = builtin.build("resnet8", classes=10)
    (note,) = fit(network, both)
    assert "--weights-key ema_model takes it" in note
    assert torch.equal(network.linear.weight, state["linear.weight"])


def test_the_prefix_of_an_architecture_that_holds_everything_in_one_part_is_put_back():
    network = nn.ModuleDict({"model": nn.Linear(2, 3)})
    state = nn.Linear(2, 3).state_dict()
    fit(network, dict(state))
    assert torch.equal(network["model"].weight, state["weight"])


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        (
            "resnet14",
            lambda: state_of("resnet8"),
            r"w\.pth does not fit the network: missing layer1\.1\.bn1\.bias.* and \d+ more; "
            r"they fit builtin/resnet8 with 10 classes",
        ),
        (
            "resnet8",
            lambda: {**state_of("resnet8"), "layer4.0.bn1.weight": torch.ones(1)},
            "unexpected layer4.0.bn1.weight; no built-in network fits either",
        ),
        (
            "resnet8",
            lambda: state_of("resnet14"),
            "unexpected layer1.1.bn1.bias.* they fit builtin/resnet14 with 10 classes",
        ),
        (
            "resnet8",
            lambda: {**state_of("resnet8"), "bn1.running_var": -torch.ones(16)},
            r"layer 'bn1' has a negative variance \(running_var\) in 16 of 16 channels",
        ),
        (
            "resnet8",
            lambda: {
                f"{who}.{name}": value + shift
                for shift, who in enumerate(("teacher", "student"))
                for name, value in state_of("resnet8").items()
            },
            r"several networks that fit .* \(teacher, student\); say which: --weights-key teacher",
        ),
        (
            "resnet8",
            lambda: state_of("resnet8", classes=7),
            r"'linear\.weight' has shape \(7, 64\), expected \(10, 64\) and 1 more do not fit; "
            "it has 7 classes, not 10: use --classes 7",
        ),
        (
            "resnet8",
            lambda: state_of("resnet8", channels=1),
            "it has 1 channels, not 3: use images with as many",
        ),
        (
            "resnet8-0.5",
            lambda: state_of("resnet8", classes=7),
            "they fit builtin/resnet8 with 7 classes",
        ),
        (
            "resnet8",
            lambda: {name: value.int() for name, value in state_of("resnet8").items()},
            "is torch.int32, expected torch.float32; save the float weights",
        ),
    ],
)
def test_weights_that_do_not_fit_say_why_and_the_way_out(name, state, message):
    network = builtin.build(name, classes=10)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        fit(network, state())
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "name",
    ["resnet20", "resnet18", "resnet8x4", "wrn16-2", "vgg8", "mobilenetv2-0.5", "vit-small"],
)
def test_weights_tell_the_architecture_the_classes_and_the_channels(name):
    def make(classes: int, channels: int) -> nn.Module:
        return builtin.build(name, classes=classes, channels=channels)

    state = state_of(name, classes=7, channels=1)
    assert count_from_weights(state, "classes", make) == 7
    assert count_from_weights(state, "channels", make) == 1
    assert builtin_of(state, (32, 32)) == (f"builtin/{name}", 7)


def test_weights_of_another_network_tell_nothing():
    def make(classes: int, channels: int) -> nn.Module:
        return builtin.build("resnet8", classes=classes, channels=channels)

    assert count_from_weights({"weight": torch.ones(3, 3)}, "classes", make) is None
    assert builtin_of({"weight": torch.ones(3, 3)}, (32, 32)) is None


def test_looking_at_weights_draws_no_numbers():
    state = state_of("resnet8")
    before = torch.get_rng_state()
    assert builtin_of(state, (32, 32)) is not None
    assert torch.equal(torch.get_rng_state(), before)
