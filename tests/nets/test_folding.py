import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doublure.core.protocols import InputContract
from doublure.core.seeding import from_seed
from doublure.nets.batchnorm_statistics import (
    MomentsRecorder,
    batchnorm_kl,
    batchnorm_layers,
    stored_statistics,
)
from doublure.nets.features import FeatureRecorder
from doublure.nets.folding import affine_of, behind, fold_batchnorm
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from tests import tiny

NORMAL = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def lived_in(network: nn.Module, contract: InputContract = tiny.CONTRACT) -> nn.Module:
    """Return the network with statistics, weights and biases of BatchNorm unlike the first ones."""
    rng = from_seed(0)
    with torch.no_grad():
        for layer in batchnorm_layers(network).values():
            layer.running_mean.normal_(generator=rng)
            layer.running_var.uniform_(0.2, 2, generator=rng)
            if layer.affine:
                layer.weight.normal_(generator=rng)
                layer.bias.normal_(generator=rng)
    return network.eval()


def images(contract: InputContract = tiny.CONTRACT, count: int = 4) -> Tensor:
    return torch.rand(count, contract.channels, *contract.size, generator=from_seed(1))


class Body(nn.Module):
    """Convolution and BatchNorm, and what a test puts between and behind them."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 4, 3)
            self.norm = norm or nn.BatchNorm2d(4)
            self.head = nn.Linear(4, 3)

    def normed(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.normed(x)).mean((2, 3)))


def test_a_folded_convolution_by_hand():
    network = Body(nn.BatchNorm2d(4, eps=0.0))
    lived_in(network)
    folded = fold_batchnorm(network, tiny.CONTRACT)
    assert [*folded.layers] == ["norm"]
    assert folded.reason == ""
    norm, conv = network.norm, folded.network.conv
    scale = norm.weight / norm.running_var.sqrt()
    torch.testing.assert_close(conv.weight, network.conv.weight * scale.view(-1, 1, 1, 1))
    bias = norm.bias + (network.conv.bias - norm.running_mean) * scale
    torch.testing.assert_close(conv.bias, bias)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "vgg8", "mobilenetv2-0.5", "convnet-6"])
def test_folded_networks_answer_the_same_and_all_is_folded(name, order):
    reference = NetworkRef(ref=f"builtin/{name}", size=(32, 32), classes=10, **NORMAL)
    network = load(reference)
    lived_in(network, network.contract).to(memory_format=order)
    network.channels_last = order is torch.channels_last
    folded = fold_batchnorm(network, network.contract)
    assert len(folded.layers) == len(batchnorm_layers(network))
    assert batchnorm_layers(folded.network) == {}
    assert isinstance(folded.network, Network)
    assert folded.network.channels_last == network.channels_last
    x = images(network.contract)
    with torch.no_grad():
        answer, expected = folded.network(x), network(x)
    assert (answer - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_before_a_pre_activation_block_what_feeds_several_stays():
    reference = NetworkRef(ref="builtin/wrn16-1", size=(32, 32), classes=10, **NORMAL)
    network = lived_in(load(reference))
    folded = fold_batchnorm(network, network.contract)
    assert 0 < len(folded.layers) < len(batchnorm_layers(network))
    x = images(network.contract)
    torch.testing.assert_close(folded.network(x), network(x), rtol=1e-4, atol=1e-4)


def test_the_original_stays_as_it_was_and_shares_what_was_not_folded():
    network = lived_in(Body()).train()
    network.conv.weight.requires_grad_()
    before = copy.deepcopy(network.state_dict())
    folded = fold_batchnorm(network, tiny.CONTRACT).network
    assert network.training
    assert not folded.training
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
    assert folded.head.weight.data_ptr() == network.head.weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    hooks = [len(m._forward_hooks) for part in (network, folded) for m in part.modules()]
    assert not any(hooks)


def test_a_tap_at_batchnorms_path_sees_what_it_saw():
    network = lived_in(Body())
    folded = fold_batchnorm(network, tiny.CONTRACT).network
    seen = []
    for asked in (network, folded):
        with FeatureRecorder(asked, ["norm"]) as recorder:
            seen.append(recorder.record(images()).features["norm"])
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize("tap", ["conv", "norm:input"])
def test_what_is_looked_at_before_batchnorm_is_not_folded(tap):
    network = lived_in(Body())
    assert fold_batchnorm(network, tiny.CONTRACT, ["norm"]).layers
    folded = fold_batchnorm(network, tiny.CONTRACT, [tap])
    assert folded.network is network
    assert folded.reason == "no convolution or linear layer is followed by BatchNorm only"


class Skipping(Body):
    def normed(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class Returning(Body):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x)
        return self.head(self.norm(x).mean((2, 3))), x


class Twice(Body):
    def normed(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.norm(self.conv(2 * x))


class Overwriting(Body):
    def normed(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu_()


class Between(Body):
    def normed(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).relu())


class Curious(Body):
    def normed(self, x: Tensor) -> Tensor:
        return super().normed(x) * self.norm.num_features


class Acting(nn.BatchNorm2d):
    """BatchNorm and more in one layer, as some zoos have it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


NOTHING = "no convolution or linear layer is followed by BatchNorm only"


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Skipping(), NOTHING),
        (Returning(), NOTHING),
        (Twice(), NOTHING),
        (Overwriting(), NOTHING),
        (Between(), NOTHING),
        (Body(Acting(4)), NOTHING),
        (Body(nn.BatchNorm2d(4, track_running_stats=False)), NOTHING),
        (Body(nn.GroupNorm(2, 4)), NOTHING),
        (Curious(), "its forward pass uses more of BatchNorm than its output"),
    ],
)
def test_what_cannot_be_folded_comes_back_as_it_is(network, reason):
    lived_in(network)
    folded = fold_batchnorm(network, tiny.CONTRACT)
    assert folded.network is network
    assert folded.layers == {}
    assert folded.reason.startswith(reason)


class Behind(Body):
    """Looks at what entered BatchNorm without a gradient, so that no graph shows it."""

    def normed(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(x) + x.detach()


def test_a_network_that_would_answer_differently_comes_back_as_it_is():
    network = lived_in(Behind())
    folded = fold_batchnorm(network, tiny.CONTRACT)
    assert folded.network is network
    assert "its outputs would differ by" in folded.reason


def test_weights_that_something_computes_are_left_alone():
    network = lived_in(Body())
    torch.nn.utils.parametrizations.weight_norm(network.conv)
    assert fold_batchnorm(network, tiny.CONTRACT).network is network


def test_linear_layers_are_folded_where_rows_enter_and_not_where_tokens_do():
    rows = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 5, bias=False), nn.BatchNorm1d(5, affine=False)
    )
    lived_in(rows)
    folded = fold_batchnorm(rows, tiny.CONTRACT)
    assert [*folded.layers] == ["2"]
    torch.testing.assert_close(folded.network(images()), rows(images()))
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(64, 1), nn.BatchNorm1d(1), nn.Flatten())
    assert fold_batchnorm(lived_in(tokens), tiny.CONTRACT).layers == {}


def test_activations_in_place_leave_what_a_folded_layer_answered():
    network = lived_in(tiny.network(0))
    folded = fold_batchnorm(network, tiny.CONTRACT).network
    with FeatureRecorder(folded, ["1"]) as recorder:
        seen: list[Tensor] = []
        handle = folded[1].register_forward_hook(lambda m, i, output: seen.append(output))
        traced = recorder.record(images()).features["1"]
        handle.remove()
    assert torch.equal(seen[0], traced)
    assert (traced < 0).any()
    assert network[2].inplace


def test_the_map_that_batchnorm_is():
    norm = lived_in(nn.BatchNorm2d(4))
    x = torch.randn(2, 4, 3, 3, generator=from_seed(0))
    scale, mean, bias = (part.view(1, -1, 1, 1) for part in affine_of(norm))
    torch.testing.assert_close(norm(x), scale * (x - mean) + bias)


def test_the_divergence_from_what_is_stored_is_the_same_behind_batchnorm():
    network = lived_in(load(NetworkRef(ref="builtin/resnet8", size=(16, 16), classes=10, **NORMAL)))
    with torch.no_grad():  # channels that training has all but given up are usual
        network.body.bn1.weight[0], network.body.bn1.bias[0] = 1e-5, 1e-4
    stored = stored_statistics(network.body)
    folded = fold_batchnorm(network, network.contract)
    mapped = {name: behind(stored[name], norm) for name, norm in folded.layers.items()}
    values = []
    for asked, known in ((network, stored), (folded.network, mapped)):
        with MomentsRecorder(asked.body, known) as recorder:
            x = images(network.contract).requires_grad_()
            asked(x)
            divergence = batchnorm_kl(recorder.read(), known)
            values.append((divergence, *torch.autograd.grad(divergence, x)))
    for before, after in zip(*values, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * before.abs().max().item())
