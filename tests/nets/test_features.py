import pytest
import torch
from torch import nn

from doublure.core.protocols import InputContract
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import Network


def network():
    body = nn.Sequential()
    body.add_module("conv1", nn.Conv2d(3, 4, 3, padding=1))
    body.add_module("bn1", nn.BatchNorm2d(4))
    body.add_module("relu1", nn.ReLU(inplace=True))
    contract = InputContract(size=(5, 5), channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=4)
    return Network(body, contract).eval()


def hooks_of(module):
    return sum(len(layer._forward_hooks) for layer in module.modules())


def test_a_tap_in_front_of_an_in_place_relu_keeps_its_signs():
    tapped = network()
    images = torch.rand(2, 3, 5, 5)
    with FeatureRecorder(tapped, ("bn1",)) as recorder:
        outputs = recorder.record(images)
    assert outputs.features["bn1"].lt(0).any()
    torch.testing.assert_close(outputs.features["bn1"].relu(), outputs.output)


def test_a_tap_is_differentiable():
    tapped = network()
    images = torch.rand(2, 3, 5, 5, requires_grad=True)
    with FeatureRecorder(tapped, ("conv1",)) as recorder:
        recorder.record(images).features["conv1"].sum().backward()
    assert images.grad.abs().sum() > 0
    assert tapped.body.conv1.weight.grad.abs().sum() > 0


def test_tapping_changes_no_answer():
    tapped = network()
    images = torch.rand(2, 3, 5, 5)
    plain = tapped(images)
    with FeatureRecorder(tapped, ("conv1", "bn1", "relu1")) as recorder:
        assert torch.equal(recorder.record(images).output, plain)


def test_no_hook_stays_behind():
    tapped = network()
    with FeatureRecorder(tapped, ("conv1", "bn1")):
        assert hooks_of(tapped) == 2
    assert hooks_of(tapped) == 0


def test_no_hook_stays_behind_when_the_work_fails():
    tapped = network()
    with pytest.raises(RuntimeError), FeatureRecorder(tapped, ("conv1",)) as recorder:
        recorder.record(torch.rand(2, 7, 5, 5))
    assert hooks_of(tapped) == 0


def test_an_unknown_layer_is_answered_with_the_nearest_name():
    tapped = network()
    with pytest.raises(ValueError, match="unknown layer to tap 'bm1'; did you mean 'bn1'"):
        FeatureRecorder(tapped, ("bm1",))


def test_an_unknown_layer_leaves_no_hook_on_the_others():
    tapped = network()
    with pytest.raises(ValueError, match="unknown layer to tap 'bn2'"):
        FeatureRecorder(tapped, ("conv1", "bn2"))
    assert hooks_of(tapped) == 0


def test_traces_of_one_call_survive_the_next():
    tapped = network()
    with FeatureRecorder(tapped, ("conv1",)) as recorder:
        first = recorder.record(torch.zeros(1, 3, 5, 5))
        kept = first.features["conv1"].clone()
        recorder.record(torch.ones(1, 3, 5, 5))
    assert torch.equal(first.features["conv1"], kept)


def test_a_plain_module_is_tapped_by_its_own_names():
    body = network().body
    with FeatureRecorder(body, ("conv1",)) as recorder:
        assert set(recorder.record(torch.rand(1, 3, 5, 5)).features) == {"conv1"}


def test_without_names_a_trace_holds_the_answer_alone():
    tapped = network()
    images = torch.rand(1, 3, 5, 5)
    outputs = FeatureRecorder(tapped).record(images)
    assert torch.equal(outputs.output, tapped(images))
    assert outputs.features == {}


def test_in_bfloat16_answers_and_taps_come_back_as_float32():
    tapped = network()
    with FeatureRecorder(tapped, ("conv1",), precision="bfloat16") as recorder:
        outputs = recorder.record(torch.rand(1, 3, 5, 5))
    assert outputs.output.dtype == outputs.features["conv1"].dtype == torch.float32
    # Rounded on the way: eight bits of mantissa are left.
    assert torch.equal(outputs.features["conv1"], outputs.features["conv1"].bfloat16().float())


def test_a_network_that_computes_in_half_precision_is_heard_in_float32():
    class Halved(nn.Module):
        def forward(self, images):
            return images.half()

    body = nn.Sequential(nn.Identity(), Halved())
    with FeatureRecorder(body, ("1",)) as recorder:
        outputs = recorder.record(torch.rand(2, 3, 5, 5))
    assert outputs.output.dtype == outputs.features["1"].dtype == torch.float32
