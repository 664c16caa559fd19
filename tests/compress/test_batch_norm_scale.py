import pytest
import torch
from torch import nn

from doublure.compress.batch_norm_scale import BatchNormScale
from doublure.core.training_notes import RemarksOnTraining
from tests import tiny

DEFAULTS = {"scale": 0.1}


def test_the_network_that_came_in_stays():
    network = tiny.network(0)
    made = BatchNormScale(scale=0.25)(network, None, tiny.rng())
    assert torch.equal(made[1].weight, torch.full((4,), 0.25))
    assert torch.equal(network[1].weight, torch.ones(4))
    assert torch.equal(made[0].weight, network[0].weight)


def test_a_scale_of_one_leaves_any_network_as_it_is():
    trained = tiny.network(0)
    with torch.no_grad():
        trained[1].weight.mul_(0.7)
    assert BatchNormScale(scale=1)(trained, None, tiny.rng()) is trained
    assert BatchNormScale(scale=1).remarks(tiny.network(0), steps=1, optimizer="adamw") == ()


@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_trained_weights_are_refused(parameter):
    trained = tiny.network(0)
    with torch.no_grad():
        getattr(trained[1], parameter)[0] += 0.01
    with pytest.raises(ValueError, match="would destroy the weights; leave --init-from away, or"):
        BatchNormScale()(trained, None, tiny.rng())


def test_a_network_without_batchnorm_is_refused_with_what_it_has():
    layers = nn.Sequential(nn.LayerNorm(2), nn.LayerNorm(2), nn.GroupNorm(1, 2))
    with pytest.raises(
        ValueError, match=r"no BatchNorm layer to rescale; the network normalises layers \(2 Layer"
    ):
        BatchNormScale()(layers, None, tiny.rng())
    with pytest.raises(ValueError, match="no BatchNorm layer to rescale; take a network with"):
        BatchNormScale()(nn.Linear(2, 2), None, tiny.rng())


def test_a_scale_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        BatchNormScale(scale=0)


def test_few_steps_and_another_optimizer_are_remarked_on():
    settings = BatchNormScale()
    assert isinstance(settings, RemarksOnTraining)
    assert settings.remarks(tiny.network(0), steps=5_000, optimizer="sgd") == ()
    (few,) = settings.remarks(tiny.network(0), steps=1_950, optimizer="sgd")
    assert few.startswith("BatchNorm scales begin at 0.1: in 1,950 steps")
    assert (
        "published for SGD" in settings.remarks(tiny.network(0), steps=4_999, optimizer="adamw")[1]
    )
