"""Homogeneity in the scale, and a layer in front that is a normalisation of the input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.nets.batchnorm_init import (
    InputBatchNorm,
    activation_deviation,
    rescale_batchnorm_,
)
from doublure.nets.resnet import BasicBlock


def network(seed: int) -> nn.Sequential:
    """A residual network with a projection; in float64, without eps and without a head's bias."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projection = nn.Sequential(nn.Conv2d(4, 6, 1, 2, bias=False), nn.BatchNorm2d(6))
        body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            BasicBlock(4, 4, 1, None),
            BasicBlock(4, 6, 2, projection),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 5, bias=False),
        ).double()
    for layer in body.modules():
        if isinstance(layer, _BatchNorm):
            layer.eps = 1e-14
    return body.train()


def images(seed: int = 0) -> Tensor:
    return torch.rand(16, 3, 8, 8, dtype=torch.float64, generator=torch.manual_seed(seed))


def gradients(body: nn.Module, direction: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a linear loss of the logits."""
    body.zero_grad()
    (body(images()) * direction).sum().backward()
    return {name: parameter.grad for name, parameter in body.named_parameters()}


@pytest.fixture
def direction() -> Tensor:
    return torch.randn(16, 5, dtype=torch.float64, generator=torch.manual_seed(1))


def test_the_deviation_of_a_rectified_normal_variable():
    drawn = torch.randn(1_000_000, generator=torch.manual_seed(0)).relu()
    assert float(drawn.std()) == pytest.approx(activation_deviation(), abs=1e-3)
    assert activation_deviation() == pytest.approx(0.58382, abs=1e-5)


@pytest.mark.parametrize("scale", [0.5, 0.1])
def test_logits_are_as_many_times_as_large_as_the_scale(scale):
    plain, scaled = network(0), network(0)
    assert rescale_batchnorm_(scaled, scale) == 6
    torch.testing.assert_close(scaled(images()), scale * plain(images()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 0.1])
def test_gradients_of_convolutions_shrink_with_the_scale_and_those_of_batchnorm_do_not(
    scale, direction
):
    plain, scaled = network(0), network(0)
    rescale_batchnorm_(scaled, scale)
    before, after = gradients(plain, direction), gradients(scaled, direction)
    vectors = {name for name, parameter in plain.named_parameters() if parameter.dim() == 1}
    assert len(vectors) == 12
    for name, gradient in before.items():
        factor = 1.0 if name in vectors else scale
        torch.testing.assert_close(after[name], factor * gradient, rtol=1e-7, atol=1e-10)


def test_a_scale_inside_a_branch_is_cancelled_by_the_next_layer(direction):
    plain, scaled = network(0), network(0)
    with torch.no_grad():
        scaled[3].bn1.weight.mul_(7.0)
    torch.testing.assert_close(scaled(images()), plain(images()), rtol=1e-10, atol=1e-12)
    ratio = (
        gradients(plain, direction)["3.bn1.weight"] / gradients(scaled, direction)["3.bn1.weight"]
    )
    torch.testing.assert_close(ratio, torch.full_like(ratio, 7.0), rtol=1e-6, atol=0.0)


def test_every_scale_and_shift_is_set_exactly():
    body = network(0)
    with torch.no_grad():
        body[1].bias.fill_(3.0)
    rescale_batchnorm_(body, 0.1)
    for layer in body.modules():
        if isinstance(layer, _BatchNorm):
            assert torch.equal(layer.weight, torch.full_like(layer.weight, 0.1))
            assert not layer.bias.any()


def test_layernorm_and_layers_without_a_scale_are_left_alone():
    body = nn.Sequential(nn.LayerNorm(4), nn.PReLU(4), nn.BatchNorm1d(4, affine=False))
    assert rescale_batchnorm_(body, 0.1) == 0
    assert torch.equal(body[0].weight, torch.ones(4))
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        rescale_batchnorm_(body, 0)


def test_the_layer_in_front_begins_with_its_scale_and_never_shifts():
    layer = InputBatchNorm(3, 0.1 * 0.58)
    assert torch.equal(layer.weight, torch.full((3,), 0.1 * 0.58))
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad
    assert not layer.bias.any()
    assert not InputBatchNorm(3, learn=False).weight.requires_grad


def test_what_it_answers_has_no_mean_and_the_deviation_of_its_scale():
    layer = InputBatchNorm(3).double().train()
    shown = layer(images()).detach()
    assert float(shown.mean((0, 2, 3)).abs().max()) < 1e-12
    variance = images().var((0, 2, 3), correction=0)
    expected = 0.58 * (variance / (variance + layer.eps)).sqrt()
    torch.testing.assert_close(
        shown.std((0, 2, 3), correction=0), expected.detach(), rtol=1e-6, atol=0.0
    )


@given(gain=st.floats(0.05, 20), shift=st.floats(-5, 5))
def test_an_affine_change_of_the_images_changes_nothing(gain, shift):
    layer = InputBatchNorm(3).double().train()
    layer.eps = 1e-14
    torch.testing.assert_close(
        layer(gain * images() + shift), layer(images()), rtol=1e-6, atol=1e-8
    )


def test_in_evaluation_it_is_a_normalisation_by_mean_and_std():
    layer = InputBatchNorm(3)
    for seed in range(20):
        layer.train()(images(seed).float())
    layer.eval()
    mean, std = (values.view(1, 3, 1, 1) for values in layer.normalisation)
    shown = images(99)
    torch.testing.assert_close(
        layer(shown.float()), ((shown - mean) / std).float(), rtol=1e-5, atol=1e-7
    )


def test_a_channel_that_never_changes_has_a_finite_normalisation():
    layer = InputBatchNorm(1)
    shown = torch.full((4, 1, 2, 2), 0.3)
    assert layer(shown).isfinite().all()
    for _ in range(400):
        layer(shown)
    _, std = layer.normalisation
    assert float(std) == pytest.approx(math.sqrt(layer.eps) / 0.58, rel=1e-3)
