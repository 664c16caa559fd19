import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doublure.nets.activations import ActivationRecorder, find_activation, values_of


def watched(function, x: Tensor) -> tuple[Tensor, ActivationRecorder]:
    with torch.no_grad(), ActivationRecorder() as recorder:
        return function(x), recorder


def maps() -> Tensor:
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "activate",
    [
        F.relu,
        torch.relu,
        Tensor.relu,
        nn.ReLU(),
        nn.ReLU6(),
        nn.LeakyReLU(0.3),
        nn.ELU(0.5),
        nn.Hardtanh(-0.5, 0.5),
        nn.GELU(approximate="tanh"),
        nn.SiLU(),
        nn.Hardswish(),
        nn.Softplus(beta=2.0),
        nn.Mish(),
        torch.tanh,
    ],
)
def test_an_activation_is_found_on_both_its_sides_and_can_be_done_again(activate):
    x = maps()
    y, recorder = watched(activate, x)
    entering, leaving = (find_activation(recorder.steps, values_of(z)) for z in (x, y))
    assert entering == leaving
    assert torch.equal(entering.function(x), y)


@pytest.mark.parametrize("activate", [torch.relu_, Tensor.relu_, nn.ReLU(inplace=True)])
def test_in_place_the_same_tensor_has_two_sides(activate):
    x = maps()
    before = values_of(x)
    y, recorder = watched(activate, x)
    assert y is x
    assert values_of(y) != before
    step = find_activation(recorder.steps, before)
    assert (step.entering, step.leaving) == (before, values_of(y))
    again = maps()
    step.function(again)
    assert torch.equal(again, maps())  # done again, it writes on nothing


def test_batchnorm_scale_and_shift_lie_on_the_way_to_an_activation():
    norm = nn.BatchNorm2d(4).eval()
    scale = torch.rand(4, 1, 1, generator=torch.Generator().manual_seed(0))
    x = maps()
    y, recorder = watched(lambda x: F.relu(norm(x) * scale + 0.5), x)
    step = find_activation(recorder.steps, values_of(x))
    assert step.leaving == values_of(y)


@pytest.mark.parametrize(
    "between",
    [
        nn.Conv2d(4, 4, 3, padding=1),
        lambda x: x + torch.ones_like(x),
        lambda x: F.max_pool2d(x, 2),
        lambda x: torch.cat((x, x), 1),
    ],
)
def test_what_mixes_channels_maps_or_places_ends_the_way(between):
    x = maps()
    _, recorder = watched(lambda x: F.relu(between(x)), x)
    assert find_activation(recorder.steps, values_of(x)) is None


def test_the_first_of_two_activations_is_entered():
    x = maps()
    _, recorder = watched(lambda x: (F.silu(x), F.relu(x)), x)
    assert find_activation(recorder.steps, values_of(x)).function is F.silu


def test_an_activation_with_weights_is_found_but_not_done_again():
    x = maps()
    _, recorder = watched(nn.PReLU(), x)
    step = find_activation(recorder.steps, values_of(x))
    assert step.activates
    assert step.function is None


def test_a_gate_is_no_activation():
    x = maps()
    _, recorder = watched(torch.sigmoid, x)
    assert find_activation(recorder.steps, values_of(x)) is None
