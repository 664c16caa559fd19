import pytest
import torch
from torch import nn

from doublure.nets.cramer_wold import (
    PUBLISHED,
    AutoEncoder,
    CramerWoldGenerator,
    CramerWoldPlan,
    latent_generator,
)
from tests.tiny import rng

SMALL = CramerWoldPlan(latent=3, noise=2, width=16, hidden=12)
COLOUR = CramerWoldPlan(
    architecture="convolutional", size=(16, 24), channels=3, latent=5, noise=2, width=4, hidden=8
)


@pytest.mark.parametrize("plan", [SMALL, COLOUR], ids=["dense", "convolutional"])
def test_images_come_back_in_their_shape_and_between_black_and_white(plan):
    images = torch.rand((4, plan.channels, *plan.size), generator=rng())
    answer = AutoEncoder(plan)(images)
    assert answer["images"].shape == images.shape
    assert answer["codes"].shape == (4, plan.latent)
    assert answer["images"].min() >= 0
    assert answer["images"].max() <= 1


@pytest.mark.parametrize("plan", [SMALL, COLOUR], ids=["dense", "convolutional"])
def test_a_generator_decodes_the_codes_that_it_makes_of_noise(plan):
    generator = CramerWoldGenerator(plan, num_codes=7).eval()
    noise = torch.randn((4, plan.noise), generator=rng())
    codes = generator.latent(noise)
    assert codes.shape == (4, plan.latent)
    assert generator.codes.shape == (7, plan.latent)
    assert torch.equal(generator(noise), generator.decode(codes))


def test_the_published_networks_have_the_widths_of_the_paper():
    def widths(network: nn.Module, kind: type) -> list[tuple[int, int]]:
        shapes = [m.weight.shape for m in network.modules() if isinstance(m, kind)]
        return [(shape[0], shape[1]) for shape in shapes]

    assert widths(latent_generator(PUBLISHED["mnist"]), nn.Linear) == [
        (512, 8),
        *[(512, 512)] * 4,
        (8, 512),
    ]
    digits = AutoEncoder(PUBLISHED["mnist"])
    assert widths(digits.encoder, nn.Linear) == [(256, 64), (256, 256), (256, 256), (8, 256)]
    numbers = AutoEncoder(PUBLISHED["svhn"])
    assert widths(numbers.encoder, nn.Conv2d) == [(64, 3), (128, 64), (256, 128)]
    assert widths(numbers.decoder, nn.Linear) == [(256 * 8 * 8, 48)]
    assert widths(numbers.decoder, nn.ConvTranspose2d) == [(256, 128), (128, 64)]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"latent": 0}, "latent must be positive, got 0"),
        ({"size": (0, 8)}, "size must be positive"),
        (
            {"architecture": "convolutional", "size": (8, 12)},
            "multiples of 8, got .8, 12.; use another size, or architecture dense",
        ),
    ],
)
def test_a_plan_that_cannot_be_built_is_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        CramerWoldPlan(**fields)
