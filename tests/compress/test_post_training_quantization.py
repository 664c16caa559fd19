import math

import pytest
import torch
from torch import nn

from doublure.compress.activation_ranges import (
    Histogram,
    mse_clip_weight,
    mse_range,
    observed_ranges,
    percentile_range,
    squared_error,
)
from doublure.compress.layer_calls import called_layers
from doublure.compress.post_training_quantization import PostTrainingQuantization
from doublure.core.protocols import Batch, InputContract, image_batch
from doublure.core.seeding import from_seed
from doublure.nets import builtin
from doublure.nets.network import Network
from doublure.nets.quantized import grids_of, quantize_
from doublure.nets.rounding import affine, fake_quantize, fake_quantize_weight, weight_scales
from doublure.networks import load, save
from tests import tiny

CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=3)


@pytest.fixture(scope="module")
def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = builtin.build("resnet8-0.5", classes=3, channels=1, size=(8, 8))
    return Network(body, CONTRACT, "builtin/resnet8-0.5").eval()


def batches(count: int = 3) -> list[Batch]:
    return [image_batch(torch.rand(8, 1, 8, 8, generator=from_seed(i))) for i in range(count)]


def quantized(network: Network, **settings: object) -> Network:
    return PostTrainingQuantization(**settings)(network, batches(), tiny.rng())


def test_rounding_twice_is_rounding_once_and_errs_by_half_a_step_at_most():
    x = torch.linspace(-1.0, 3.0, 1001)
    scale, zero_point = affine(-1.0, 3.0, 4)
    once = fake_quantize(x, scale, zero_point, 4)
    assert torch.equal(fake_quantize(once, scale, zero_point, 4), once)
    assert (once - x).abs().max() <= scale / 2 + 1e-6
    assert len(once.unique()) == 16
    weight = torch.randn(5, 3, 3, 3, generator=from_seed(0))
    rounded = fake_quantize_weight(weight, 4)
    torch.testing.assert_close(fake_quantize_weight(rounded, 4), rounded, rtol=1e-6, atol=0)
    error = (rounded - weight).abs().flatten(1).amax(1)
    assert (error <= weight_scales(weight, 4) / 2 + 1e-6).all()


def test_32_bits_are_the_values_themselves():
    x = torch.randn(4, 3)
    assert fake_quantize(x, 0.1, 3, 32) is x
    assert fake_quantize_weight(x, 32) is x


def test_weights_alone_at_32_bits_leave_the_answer_bit_for_bit(network):
    made = quantized(network, activation_bits=8, weight_bits=32, first_last_bits=0)
    for name in grids_of(made.body):
        layer = made.body.get_submodule(name)
        assert torch.equal(fake_quantize_weight(layer.weight, 32), layer.weight)
    body = made.body
    quantize_(
        body, {n: type(g)(weight_bits=32, activation_bits=32) for n, g in grids_of(body).items()}
    )
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(made(images), network(images))


def test_a_channel_scaled_by_c_has_a_scale_scaled_by_c():
    weight = torch.randn(4, 3, 2, 2, generator=from_seed(0))
    factor = torch.tensor([1.0, 2.0, 0.5, 4.0])
    torch.testing.assert_close(
        weight_scales(weight * factor[:, None, None, None], 8), weight_scales(weight, 8) * factor
    )


def test_a_channel_of_zeros_stays_zero():
    assert torch.equal(fake_quantize_weight(torch.zeros(2, 3, 1, 1), 4), torch.zeros(2, 3, 1, 1))


def test_the_gradient_passes_inside_of_the_clip_and_not_outside():
    scale, zero_point = affine(-1.0, 1.0, 8)
    x = torch.tensor([-2.0, -0.5, 0.0, 0.7, 1.5], requires_grad=True)
    fake_quantize(x, scale, zero_point, 8).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (2.0, 6.0), (-4.0, -1.0)])
def test_zero_is_on_the_grid_whatever_the_range(low, high):
    scale, zero_point = affine(low, high, 8)
    assert fake_quantize(torch.zeros(1), scale, zero_point, 8).item() == 0.0
    assert 0 <= zero_point <= 255
    # The whole range is held, to half a step.
    ends = torch.tensor([low, high])
    assert (fake_quantize(ends, scale, zero_point, 8) - ends).abs().max() <= scale / 2 + 1e-6


@pytest.mark.parametrize("calibration_method", ["minmax", "percentile", "mse"])
def test_calibration_does_not_mind_the_order_of_its_images(network, calibration_method):
    images = torch.cat([b.images for b in batches()])
    turned = images[torch.randperm(len(images), generator=from_seed(5))]
    settings = PostTrainingQuantization(calibration_method=calibration_method)
    one, other = (
        settings(network, [image_batch(part) for part in some.split(8)], tiny.rng())
        for some in (images, turned)
    )
    for name, grid in grids_of(one.body).items():
        again = grids_of(other.body)[name]
        assert grid.scale == pytest.approx(again.scale, rel=1e-4)
        assert grid.zero_point == again.zero_point


def test_the_same_images_give_the_same_grids(network):
    assert quantized(network).plan == quantized(network).plan


def test_min_and_max_are_those_of_a_hook_on_the_layer(network):
    images = batches(1)[0].images
    seen = observed_ranges(network, ["conv1"], [images])
    normalised = (images - 0.5) / 0.5
    assert seen == {"conv1": (normalised.min().item(), normalised.max().item())}


def test_a_percentile_leaves_out_the_tails():
    counts = torch.tensor([1, 98, 800, 98, 3])
    histogram = Histogram(low=-2.0, high=3.0, counts=counts)
    low, high = percentile_range(histogram, 99.0)
    assert (low, high) == pytest.approx((-1.0, 2.0))
    assert percentile_range(histogram, 100.0) == pytest.approx((-2.0, 3.0))


def test_the_best_range_errs_less_than_the_one_seen():
    counts = torch.full((2048,), 1000)
    counts[1024:] = 0
    counts[-1] = 1  # an outlier at twice the range
    histogram = Histogram(low=0.0, high=2.0, counts=counts)
    low, high = mse_range(histogram, 4, affine)
    assert high == pytest.approx(1.0, abs=0.1)
    values, count = histogram.centres, counts.double()
    assert squared_error(values, count, *affine(low, high, 4), 4) < 0.5 * squared_error(
        values, count, *affine(0.0, 2.0, 4), 4
    )


def test_clipped_weights_err_less_than_unclipped_ones():
    weight = torch.randn(8, 4, 3, 3, generator=from_seed(0))
    weight[:, 0, 0, 0] = 8.0
    clipped = fake_quantize_weight(mse_clip_weight(weight, 4), 4)
    plain = fake_quantize_weight(weight, 4)
    assert (clipped - weight).square().mean() < (plain - weight).square().mean()


def test_more_bits_answer_more_like_the_network(network):
    images = torch.rand(16, 1, 8, 8, generator=from_seed(7))
    errors = []
    for bits in (2, 4, 8):
        made = quantized(network, weight_bits=bits, activation_bits=bits)
        errors.append((made(images) - network(images)).square().mean().item())
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 0


def test_a_corrected_bias_leaves_each_channel_its_mean(network):
    images = torch.cat([b.images for b in batches()])
    plain, corrected = (
        quantized(network, weight_bits=3, activation_bits=8, correct_bias=c) for c in (False, True)
    )
    with torch.no_grad():
        wanted = network(images).mean(0)
        before = (plain(images).mean(0) - wanted).abs().max()
        after = (corrected(images).mean(0) - wanted).abs().max()
    assert after < 1e-5 < before


def test_the_first_and_the_last_layer_keep_their_bits(network):
    grids = grids_of(quantized(network, weight_bits=4, activation_bits=4).body)
    names = called_layers(network, batches(1)[0].images)
    assert (names[0], names[-1]) == ("conv1", "linear")
    bits = {name: (grid.weight_bits, grid.activation_bits) for name, grid in grids.items()}
    assert bits.pop("conv1") == bits.pop("linear") == (8, 8)
    assert set(bits.values()) == {(4, 4)}
    same = grids_of(quantized(network, weight_bits=4, activation_bits=4, first_last_bits=0).body)
    assert {grid.weight_bits for grid in same.values()} == {4}


def test_a_quantized_network_is_read_back_with_its_grids_and_plain_keys(network, tmp_path):
    made = quantized(network, weight_bits=4)
    assert made.body.state_dict().keys() == network.body.state_dict().keys()
    save(made, tmp_path)
    again = load(str(tmp_path)).eval()
    assert again.plan == made.plan
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(images), made(images))


def test_the_network_that_came_in_is_left_as_it_was(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    quantized(network, weight_bits=3, calibration_method="mse", correct_bias=True)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert grids_of(network.body) == {}


@pytest.mark.parametrize("bits", [0, 1, 9, 16])
def test_bits_that_no_grid_has_are_refused(bits):
    with pytest.raises(ValueError, match="weight_bits must be 2 to 8, or 32"):
        PostTrainingQuantization(weight_bits=bits)


def test_nothing_to_do_is_refused(network):
    with pytest.raises(ValueError, match="both 32: nothing to quantize"):
        quantized(network, weight_bits=32, activation_bits=32)
    with pytest.raises(ValueError, match="already quantized"):
        quantized(quantized(network))
    with pytest.raises(ValueError, match="needs calibration images, got none"):
        PostTrainingQuantization()(network, [], tiny.rng())
    flat = Network(nn.Sequential(nn.Flatten(), nn.Identity()), CONTRACT)
    with pytest.raises(ValueError, match="calls no convolution, linear layer or attention"):
        quantized(flat)


def test_a_constant_input_needs_no_scale():
    assert affine(0.0, 0.0, 8) == (1.0, 0)
    assert math.isfinite(affine(0.0, 1e-45, 8)[0])


def test_weights_of_four_bits_take_four_bits_on_disk(network, tmp_path):
    sizes = {}
    for bits in (4, 8, 32):
        made = quantized(network, weight_bits=bits, activation_bits=8, first_last_bits=0)
        save(made, tmp_path / str(bits))
        sizes[bits] = (tmp_path / str(bits) / "student.safetensors").stat().st_size
        images = torch.rand(3, 1, 8, 8)
        assert torch.equal(load(str(tmp_path / str(bits))).eval()(images), made(images))
    weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    assert sizes[8] - sizes[4] == pytest.approx(weights / 2, abs=200)
    assert sizes[32] - sizes[8] > 2.5 * weights
