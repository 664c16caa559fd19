from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from doublure.core.protocols import InputContract
from doublure.data.checkpoints import CheckpointError
from doublure.data.generator_file import generator_files
from doublure.nets.cramer_wold import CramerWoldGenerator, CramerWoldPlan
from doublure.sources.lcw import LCW, draw_codes, fit_images, load_generator
from doublure.verbs.naming import source_named
from tests.tiny import context, rng


def untrained(folder: Path) -> LCW:
    plan = CramerWoldPlan(width=16, hidden=16)
    state = CramerWoldGenerator(plan, num_codes=4).state_dict()
    for name, content in generator_files("lcw", asdict(plan), state).items():
        (folder / name).write_bytes(content)
    return LCW(generator=str(folder))


EXAMPLES = (untrained,)

PLAN = CramerWoldPlan(latent=3, noise=2, width=8, hidden=6)


def make_generator() -> CramerWoldGenerator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = CramerWoldGenerator(PLAN, num_codes=500).eval()
    turn = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])  # of rank two
    generator.codes.copy_(torch.randn((500, 3), generator=rng(5)) @ turn.T + 4)
    return generator


def write(folder: Path, generator: CramerWoldGenerator) -> str:
    for name, content in generator_files("lcw", asdict(PLAN), generator.state_dict()).items():
        (folder / name).write_bytes(content)
    return str(folder)


@pytest.fixture
def run(tmp_path) -> str:
    return write(tmp_path, make_generator())


def test_it_shows_what_the_generator_makes_of_noise(run):
    generator = make_generator()
    images = LCW(generator=run).open(context(), None, rng()).draw(3, None).images
    drawn = torch.stack([generator(torch.randn((1, 2), generator=rng(i)))[0] for i in range(200)])
    assert images.shape == (8, 1, 8, 8)
    # Its images lie on the surface that two numbers span, and others' hardly.
    apart = torch.cdist(images.flatten(1), drawn.flatten(1)).min(1).values
    baseline = (
        LCW(generator=run, codes="gaussian").open(context(), None, rng()).draw(3, None).images
    )
    other = torch.cdist(baseline.flatten(1), drawn.flatten(1)).min(1).values
    assert apart.max() < other.min()


def test_gaussian_codes_have_the_mean_and_covariance_of_the_codes_kept():
    generator = make_generator()
    codes = draw_codes("gaussian", generator, 20_000, rng())
    torch.testing.assert_close(codes.mean(0), generator.codes.mean(0), atol=0.06, rtol=0)
    torch.testing.assert_close(
        torch.cov(codes.T), torch.cov(generator.codes.T), atol=0.12, rtol=0.05
    )


def test_interpolated_codes_lie_between_those_kept():
    generator = make_generator()
    generator.codes.copy_(torch.zeros(500, 3))
    generator.codes[::2] = torch.tensor([1.0, 2.0, -4.0])
    codes = draw_codes("interpolated", generator, 400, rng())
    share = codes[:, :1]
    assert share.min() >= 0
    assert share.max() <= 1
    torch.testing.assert_close(codes, share * torch.tensor([1.0, 2.0, -4.0]))
    assert ((share > 0.01) & (share < 0.99)).any()


def test_normal_codes_are_standard_normal():
    codes = draw_codes("normal", make_generator(), 20_000, rng())
    torch.testing.assert_close(codes.mean(0), torch.zeros(3), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(codes.T), torch.eye(3), atol=0.05, rtol=0)


def test_images_follow_the_networks_size_and_colours(run):
    contract = InputContract(size=(16, 12), channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, classes=3)
    images = LCW(generator=run).open(replace(context(), contract=contract), None, rng())
    shown = images.draw(0, None).images
    assert shown.shape == (8, 3, 16, 12)
    assert torch.equal(shown[:, 0], shown[:, 2])


def test_colours_become_grey_by_luminance():
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 1
    torch.testing.assert_close(fit_images(red, (4, 4), 1), torch.full((1, 1, 4, 4), 0.299))


def test_colours_that_nobody_knows_are_refused(run):
    contract = InputContract(size=(8, 8), channels=4, mean=(0.5,) * 4, std=(1.0,) * 4, classes=3)
    with pytest.raises(ValueError, match="images have 1 channels, but the network takes 4"):
        LCW(generator=run).open(replace(context(), contract=contract), None, rng())


def test_without_a_generator_it_says_how_to_make_one():
    with pytest.raises(ValueError, match="--set generator=RUN, the output of `doublure train-gen"):
        LCW().open(context(), None, rng())


def test_weights_that_do_not_fit_their_plan_are_refused(tmp_path):
    generator = make_generator()
    del generator.latent[0]
    with pytest.raises(CheckpointError, match="the weights do not match the plan"):
        load_generator(write(tmp_path, generator))


def test_the_folder_of_a_generator_is_named_as_a_source_by_itself(run):
    assert source_named(run) == LCW(generator=run)
