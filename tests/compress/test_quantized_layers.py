"""Quantization of networks as people write them: every layer that multiplies, by every option."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from doublure.compress.adaptive_rounding import adaptive_weights, input_moments
from doublure.compress.equalisation import equalise, equalising_scales, find_pairs, pair_ranges
from doublure.compress.layer_calls import called_layers
from doublure.compress.post_training_quantization import PostTrainingQuantization, parse_layer_bits
from doublure.core.protocols import InputContract, image_batch
from doublure.core.seeding import from_seed
from doublure.nets import builtin
from doublure.nets.network import Network
from doublure.nets.quantized import grids_of
from doublure.nets.rounded_share import rounded_share
from doublure.nets.rounding import fake_quantize_dynamic, fake_quantize_weight, symmetric
from tests import tiny

CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=3)


def network_of(body: nn.Module) -> Network:
    rng = from_seed(3)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=rng))
    return Network(body, CONTRACT).eval()


def builtin_network(name: str) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = builtin.build(name, classes=3, channels=1, size=(8, 8))
    return Network(body, CONTRACT, f"builtin/{name}").eval()


def images(count: int = 16) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=from_seed(1))


def quantized(network: Network, **settings: object) -> Network:
    return PostTrainingQuantization(**settings)(network, [image_batch(images())], tiny.rng())


class Padded(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(self.embed(x[:, 0])).mean(1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.shared, self.head = (
            nn.Linear(64, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        x = F.relu(self.first(x.flatten(1)))
        return self.head(F.relu(self.shared(F.relu(self.shared(x)))))


def head(channels: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]


KINDS = {
    "subclass": lambda: nn.Sequential(Padded(1, 4, 2), *head(4)),
    "standardised": lambda: nn.Sequential(Standardised(1, 4, 3), *head(4)),
    "parametrised": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(1, 4, 3)), *head(4)
    ),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(1, 4, 2, stride=2), *head(4)),
    "one-dimensional": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(248, 3)
    ),
    "attention": Attending,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_that_multiplies_is_rounded(kind):
    network = network_of(KINDS[kind]())
    coarse, fine = (
        quantized(network, weight_bits=bits, activation_bits=bits, first_last_bits=0)
        for bits in (2, 8)
    )
    share = rounded_share(coarse.body)
    assert share.share == 1.0
    assert share.passed_over == ()
    assert share.warning == ""
    with torch.no_grad():
        answers, rough, close = (net(images()) for net in (network, coarse, fine))
    assert (close - answers).abs().max() < 0.2 * (rough - answers).abs().max()
    assert coarse.body.state_dict().keys() == network.body.state_dict().keys()


def test_standardised_weights_are_rounded_after_they_are_standardised():
    network = network_of(nn.Sequential(Standardised(1, 4, 3), *head(4)))
    made = quantized(network, weight_bits=3, activation_bits=32, first_last_bits=0)
    layer = made.body[0]
    weight = layer.weight - layer.weight.mean((1, 2, 3), keepdim=True)
    expected = F.conv2d(images(), fake_quantize_weight(weight, 3), layer.bias)
    assert torch.equal(layer(images()), expected)


def test_attention_with_wide_grids_answers_as_it_did():
    network = network_of(Attending())
    made = quantized(network, weight_bits=32, activation_bits=8, first_last_bits=0)
    assert set(grids_of(made.body)) >= {"layer.self_attn", "layer.self_attn.out_proj"}
    with torch.no_grad():
        torch.testing.assert_close(made(images()), network(images()), atol=0.05, rtol=0.05)


def test_what_is_passed_over_is_named_with_its_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(64, 3), nn.Linear(10, 10)
            self.table = nn.Parameter(torch.zeros(4, 4))

        def forward(self, x):
            return self.used(x.flatten(1)) + self.table.sum()

    share = rounded_share(quantized(network_of(Odd())).body)
    assert (share.layers, share.weights, share.all_weights) == (1, 192, 308)
    why = {part.name: part.why for part in share.passed_over}
    assert why["unused"] == "never called on an image"
    assert "no product" in why["(network)"]
    assert share.warning.startswith("37.7% of the weights are not rounded")
    assert share.mean_weight_bits == pytest.approx((192 * 8 + 116 * 32) / 308)


# Dynamic ranges.


def test_dynamic_rounding_errs_by_half_a_step_and_keeps_zero():
    x = torch.randn(5, 3, 4, 4, generator=from_seed(0))
    x[:, 0, 0, 0] = 0.0
    for bits in (2, 4, 8):
        rounded = fake_quantize_dynamic(x, bits, is_symmetric=False)
        step = (x.flatten(1).amax(1) - x.flatten(1).amin(1)) / (2**bits - 1)
        assert ((rounded - x).abs().flatten(1).amax(1) <= step / 2 + 1e-6).all()
        assert (rounded[:, 0, 0, 0] == 0).all()
    once = fake_quantize_dynamic(x, 4, is_symmetric=False)
    assert torch.equal(fake_quantize_dynamic(4 * x, 4, is_symmetric=False), 4 * once)


def test_dynamic_rounding_of_a_sample_depends_on_no_other_one():
    x = torch.randn(6, 3, 4, generator=from_seed(0)) * torch.arange(1, 7).view(-1, 1, 1)
    for is_symmetric in (False, True):
        whole = fake_quantize_dynamic(x, 3, is_symmetric=is_symmetric)
        alone = [fake_quantize_dynamic(row[None], 3, is_symmetric=is_symmetric) for row in x]
        assert torch.equal(whole, torch.cat(alone))


def test_a_sample_of_zeros_stays_and_gradients_pass():
    x = torch.zeros(2, 3, requires_grad=True)
    rounded = fake_quantize_dynamic(x, 4, is_symmetric=False)
    rounded.sum().backward()
    assert torch.equal(rounded, x)
    assert torch.equal(x.grad, torch.ones(2, 3))


def test_dynamic_ranges_forgive_images_beyond_the_calibration(tmp_path):
    network = builtin_network("resnet8-0.5")
    far = 30 * images()
    with torch.no_grad():
        errors = [
            (quantized(network, ranges=ranges)(far) - network(far)).abs().max()
            for ranges in ("static", "dynamic")
        ]
    assert errors[1] < 0.1 * errors[0]


def test_a_symmetric_range_reaches_as_far_below_as_above():
    scale, zero_point = symmetric(-1.0, 3.0, 4)
    assert (scale, zero_point) == (pytest.approx(3 / 7), 8)
    grids = grids_of(quantized(builtin_network("resnet8-0.5"), symmetric=True).body)
    assert {grid.zero_point for grid in grids.values()} == {128}


# Bits of single layers.


def test_bits_of_single_layers_win():
    network = builtin_network("resnet8-0.5")
    names = called_layers(network, images(1))
    made = quantized(network, layer_bits=(f"{names[0]}=4", f"{names[1]}=3/6"))
    grids = grids_of(made.body)
    assert (grids[names[0]].weight_bits, grids[names[0]].activation_bits) == (4, 4)
    assert (grids[names[1]].weight_bits, grids[names[1]].activation_bits) == (3, 6)
    with pytest.raises(ValueError, match="unknown layer 'conv9'"):
        quantized(network, layer_bits=("conv9=4",))


@pytest.mark.parametrize("text", ["conv1", "=4", "conv1=four", "conv1=4/8/2", "conv1=9"])
def test_bits_that_say_nothing_are_refused(text):
    with pytest.raises(ValueError, match="layer_bits"):
        parse_layer_bits((text,))


# Bias correction.


@pytest.mark.parametrize(("body", "left"), [(Attending, 0.2), (Twice, 0.7)])
def test_corrected_biases_bring_the_mean_answer_nearer(body, left):
    network = network_of(body())
    plain, corrected = (
        quantized(network, weight_bits=3, first_last_bits=0, correct_bias=c) for c in (False, True)
    )
    with torch.no_grad():
        wanted = network(images()).mean(0)
        before, after = ((net(images()).mean(0) - wanted).norm() for net in (plain, corrected))
    assert after < left * before


# Equalisation.


def test_equalising_scales_by_hand():
    scales = equalising_scales(torch.tensor([16.0, 1.0, 0.0]), torch.tensor([1.0, 4.0, 2.0]))
    assert scales.tolist() == [4.0, 0.5, 1.0]


def test_equalisation_undoes_a_planted_channel_and_changes_no_answer():
    network = builtin_network("resnet8-0.5")
    pairs = find_pairs(network, images())
    pair = pairs[0]
    norm, second = (network.body.get_submodule(name) for name in (pair.norm, pair.second))
    planted = 64.0
    before = network(images())
    with torch.no_grad():
        norm.weight[2] *= planted
        norm.bias[2] *= planted
        second.weight[:, 2] /= planted
    assert torch.equal(network(images()), before)
    made, done = equalise(network, images())
    assert pair in done
    assert torch.equal(made(images()), before)
    first, reader = pair_ranges(made.body, pair)
    assert ((first / reader).log2().abs() <= 1.0).all()


def test_a_function_that_is_not_homogeneous_is_left_alone():
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), *head(4)[:3])
    body.append(nn.Linear(4, 3))
    network = network_of(body)
    made, done = equalise(network, images())
    assert [pair.first for pair in done] == ["2"]
    torch.testing.assert_close(made(images()), network(images()))


def test_a_network_without_two_layers_in_a_row_is_refused():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(64, 3)

        def forward(self, x):
            return self.head((x + self.conv(x)).flatten(1))

    with pytest.raises(ValueError, match="no pair of layers without a skip between"):
        equalise(network_of(Skip()), images())


# Adaptive rounding.


def test_adaptive_weights_are_on_the_grid_and_serve_correlated_inputs_better():
    rng = from_seed(0)
    weight = torch.randn(6, 12, generator=rng)
    inputs = torch.randn(200, 12, generator=rng) + 2 * torch.randn(200, 1, generator=rng)
    moments = inputs.T @ inputs
    adaptive, nearest = adaptive_weights(weight, moments, 3), fake_quantize_weight(weight, 3)
    torch.testing.assert_close(fake_quantize_weight(adaptive, 3), adaptive)
    errors = [((w - weight) @ inputs.T).square().mean() for w in (adaptive, nearest)]
    assert errors[0] < 0.6 * errors[1]


def test_moments_of_a_convolution_are_those_of_its_patches():
    network = network_of(nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), *head(3)))
    moments = input_moments(network, ["0"], [images(4)])["0"]
    patches = F.unfold((images(4) - 0.5) / 0.5, 3, padding=1, stride=2)
    rows = patches.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(moments, (rows.T @ rows)[None])


def test_adaptive_rounding_answers_nearer_to_the_network():
    network = builtin_network("resnet8-0.5")
    with torch.no_grad():
        wanted = network(images())
        errors = [
            (quantized(network, weight_bits=3, rounding=r)(images()) - wanted).square().mean()
            for r in ("nearest", "adaptive")
        ]
    assert errors[1] < 0.7 * errors[0]


def test_inputs_that_are_not_finite_are_refused_by_layer():
    network = network_of(nn.Sequential(nn.Conv2d(1, 4, 3), *head(4)))
    with torch.no_grad():
        network.body[0].weight[0] = torch.nan
    with pytest.raises(ValueError, match="the inputs of '4' are not finite"):
        quantized(network)
