import dataclasses
import math

import pytest
import torch
from torch import nn

from doublure.core.protocols import InputContract
from doublure.nets.generators import Generator, GeneratorPlan, initialise_
from tests import tiny
from tests.tiny import CONTRACT, rng

COLOUR = InputContract(
    size=(32, 32), channels=3, mean=(0.5, 0.4, 0.6), std=(0.1, 0.2, 0.05), classes=10
)
SMALL = GeneratorPlan(latent=8, width=4)


def made(plan: GeneratorPlan = SMALL, contract: InputContract = CONTRACT) -> Generator:
    return plan.make(contract, rng())


def replaced(**changes) -> GeneratorPlan:
    return dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("shape", ["upsampling", "deconvolution"])
@pytest.mark.parametrize("head", ["standard", "sigmoid", "tanh"])
@pytest.mark.parametrize("contract", [CONTRACT, COLOUR], ids=["8x8x1", "32x32x3"])
def test_every_shape_makes_images_in_0_1_of_the_contracts_size(shape, head, contract):
    generator = made(replaced(shape=shape, head=head), contract)
    images = generator(generator.draw_codes(6, rng(1)))
    assert images.shape == (6, contract.channels, *contract.size)
    assert 0 <= images.min() <= images.max() <= 1


def test_sizes_that_no_doubling_reaches_are_cropped_to_the_middle():
    contract = dataclasses.replace(CONTRACT, size=(9, 30))
    generator = made(contract=contract)
    assert generator.grid == (3, 8)
    codes = generator.draw_codes(4, rng(1))
    assert generator(codes).shape == (4, 1, 9, 30)
    whole = generator.last(generator.blocks(generator.first_bn(
        generator.first(codes).unflatten(1, (-1, 3, 8))
    )))  # fmt: skip
    assert whole.shape[2:] == (12, 32)
    torch.testing.assert_close(generator.values(codes), whole[:, :, 1:10, 1:31])


def test_the_papers_width_gives_the_papers_layers():
    generator = made(GeneratorPlan(), COLOUR)
    assert (generator.first.in_features, generator.first.out_features) == (256, 128 * 8 * 8)
    convolutions = [layer for layer in generator.modules() if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (128, 128), (128, 64), (64, 3),
    ]  # fmt: skip


def test_the_deconvolution_halves_its_channels_as_published():
    generator = made(GeneratorPlan(shape="deconvolution", head="tanh"), COLOUR)
    layers = [layer for layer in generator.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in layers] == [256, 128, 64, 64]
    assert generator.first.out_features == 512 * 2 * 2


def test_the_standard_head_has_the_contracts_mean_and_deviation_before_it_is_clipped():
    generator = made(contract=COLOUR)
    values = 0.3 * torch.randn(64, 3, 32, 32, generator=rng())
    assert generator.last_bn is not None
    standard = generator.last_bn(values.tanh())
    torch.testing.assert_close(standard.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.var((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (COLOUR.mean, COLOUR.std))
    expected = (mean + std * standard).clamp(0, 1)
    torch.testing.assert_close(generator.as_images(values), expected)


def test_the_tanh_head_is_the_papers_range_under_a_half_and_a_half():
    images = made(replaced(head="tanh")).as_images(torch.tensor([[[[-9.0, 0.0, 9.0]]]]))
    torch.testing.assert_close(images, torch.tensor([[[[0.0, 0.5, 1.0]]]]), atol=1e-6, rtol=0)


def test_the_same_generator_comes_of_the_same_numbers_whatever_else_was_drawn():
    torch.manual_seed(5)
    one = made()
    before = torch.random.get_rng_state()
    other = made()
    assert tiny.same_weights(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not tiny.same_weights(one, SMALL.make(CONTRACT, rng(1)))


def test_he_weights_keep_the_variance_from_block_to_block():
    generator = made(replaced(width=32, latent=64))
    layer = generator.blocks[1]
    expected = math.sqrt(2 / (1.04 * layer.in_channels * 9))
    assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert generator.first.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert layer.bias.abs().max() == 0


def test_dcgan_weights_have_a_deviation_of_a_fiftieth():
    generator = made(replaced(width=32, latent=64, start="dcgan"))
    assert generator.blocks[1].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert generator.first_bn.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert generator.first_bn.weight.mean().item() == pytest.approx(1.0, abs=0.02)


def test_starting_afresh_forgets_what_batchnorm_has_seen():
    generator = made()
    generator(generator.draw_codes(16, rng(1)))
    initialise_(generator, rng())
    assert tiny.same_weights(generator, made())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent": 0}, "latent must be positive, got 0"),
        ({"width": 0}, "width must be positive, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replaced(**change)
