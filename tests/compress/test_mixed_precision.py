import pytest
import torch

from doublure.compress.choosing_bits import TRIALS
from doublure.compress.mixed_precision import MixedPrecision, costs, parse_target
from doublure.compress.post_training_quantization import PostTrainingQuantization
from doublure.compress.sensitivity import layer_sizes, mean_divergence, measure_sensitivity
from doublure.core.protocols import InputContract, image_batch
from doublure.core.seeding import from_seed
from doublure.nets import builtin
from doublure.nets.network import Network
from doublure.nets.rounded_share import rounded_share
from tests import tiny

DEFAULTS = {
    "quantization": PostTrainingQuantization(calibration_method="mse"),
    "target": "4.5bits",
    "search": "milp",
    "bits": (2, 3, 4, 5, 6, 8),
    "num_images": 128,
    "trials": TRIALS,
}

CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=3)
MINMAX = PostTrainingQuantization()


@pytest.fixture(scope="module")
def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = builtin.build("convnet-4", classes=3, channels=1, size=(8, 8))
    return Network(body, CONTRACT, "builtin/convnet-4").eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(16, 1, 8, 8, generator=from_seed(1))


def test_the_divergence_by_hand():
    p, q = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    expected = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    assert mean_divergence(p, q) == pytest.approx(expected.item(), abs=1e-6)


def test_harm_falls_with_bits_and_the_network_stays_as_it_was(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = measure_sensitivity(network, images, (2, 4, 8), MINMAX)
    assert (found.divergence[:, 0] > found.divergence[:, 2]).all()
    assert found.divergence.shape == found.flips.shape == (len(found.layers), 3)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    again = measure_sensitivity(network, images, (2, 4, 8), MINMAX)
    assert torch.equal(found.divergence, again.divergence)


def test_sizes_of_layers_are_their_weights_and_products(network, images):
    names = measure_sensitivity(network, images, (8,), MINMAX).layers
    weights, macs = layer_sizes(network, names, images[:1])
    conv = network.body.get_submodule(names[0])
    assert weights[0] == conv.weight.numel()
    assert macs[0] == conv.weight.numel() * 64
    assert weights[-1] == macs[-1]


@pytest.mark.parametrize(("target", "mean"), [("5bits", 5.0), ("0.15size", 4.8)])
def test_a_target_is_kept_and_all_but_reached(network, images, target, mean):
    made = MixedPrecision(target=target)(network, [image_batch(images)], tiny.rng())
    share = rounded_share(made.body)
    assert mean - 1.5 < share.mean_weight_bits <= mean
    assert all(two[0] == two[1] for two in share.layer_bits.values())


def test_a_time_is_shared_out_by_products(network, images):
    found = measure_sensitivity(network, images, (4, 8), MINMAX)
    cost, budget = costs(network, found, "2ms", images[:1])
    assert budget == 2.0
    torch.testing.assert_close(cost[:, 1], 2 * cost[:, 0])
    torch.testing.assert_close(cost[:, 0] / cost[:, 0].sum(), found.macs / found.macs.sum())


@pytest.mark.parametrize("text", ["4", "bits", "-1bits", "4 bits", "0size", "2s"])
def test_targets_that_say_nothing_are_refused(text):
    with pytest.raises(ValueError, match=r"target must be as 4\.5bits"):
        parse_target(text)


def test_too_small_a_target_is_refused_with_the_smallest(network, images):
    with pytest.raises(ValueError, match="which the fewest bits cost"):
        MixedPrecision(target="1.5bits")(network, [image_batch(images)], tiny.rng())


def test_a_network_whose_answers_are_not_finite_is_refused(images):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(64, 3)

        def forward(self, x):
            return self.head(x.flatten(1)) * torch.nan

    with pytest.raises(ValueError, match="not all finite"):
        MixedPrecision()(Network(Broken(), CONTRACT), [image_batch(images)], tiny.rng())
