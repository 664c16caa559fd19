"""OpenGL paints what torch paints, many images a draw call; where it cannot, it says why."""

import pytest
import torch

from doublure.core import optional
from doublure.shaders import opengl
from doublure.shaders.families import FAMILIES, draw_program
from doublure.shaders.opengl import GlPainter, OpenGLError, open_context
from doublure.shaders.program import Instances
from doublure.shaders.torch_backend import TorchPainter
from tests.shaders.formulas import CPU


@pytest.fixture(scope="module")
def painter() -> GlPainter:
    try:
        return GlPainter()
    except (OpenGLError, optional.MissingExtraError) as error:
        pytest.skip(str(error))


def images_of(family: str, seed: int, count: int) -> Instances:
    seeds = torch.arange(count) + 100 * seed
    times = torch.linspace(0.1, 10, count, dtype=torch.float64)
    return draw_program(seed, family).instances(seeds, times)


def assert_agreement(first: torch.Tensor, second: torch.Tensor) -> None:
    difference = (first - second).abs()
    assert (difference.amax(1) <= 2 / 255).float().mean() >= 0.99
    assert difference.mean((1, 2, 3)).max() < 2 / 255


@pytest.mark.parametrize("family", FAMILIES)
def test_opengl_and_torch_paint_the_same_picture(painter, family):
    batch = [images_of(family, seed=11, count=6)]
    assert_agreement(painter.paint(batch, (24, 24), 2), TorchPainter(CPU).paint(batch, (24, 24), 2))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_opengl_and_torch_agree_over_many_programs(painter, family):
    batch = [images_of(family, seed=seed, count=10) for seed in range(20, 30)]
    assert_agreement(painter.paint(batch, (32, 32), 2), TorchPainter(CPU).paint(batch, (32, 32), 2))


@pytest.mark.parametrize("size", [(8, 24), (24, 8), (5, 7)])
def test_images_need_not_be_square(painter, size):
    batch = [images_of("creatures", seed=1, count=5), images_of("leaves", seed=2, count=2)]
    assert_agreement(painter.paint(batch, size, 3), TorchPainter(CPU).paint(batch, size, 3))


def test_one_draw_call_paints_all_images_of_a_program(painter):
    batch = [images_of("plasma", seed=1, count=50), images_of("stripes", seed=1, count=3)]
    before = painter.num_draw_calls
    painter.paint(batch, (8, 8), 1)
    assert painter.num_draw_calls == before + 2


def test_a_batch_may_need_several_atlases(painter, monkeypatch):
    batch = [images_of("plasma", seed=1, count=13), images_of("stripes", seed=1, count=3)]
    whole = painter.paint(batch, (8, 8), 1)
    monkeypatch.setattr(opengl, "_LARGEST_ATLAS", 16)
    assert torch.equal(painter.paint(batch, (8, 8), 1), whole)


def test_two_painters_do_not_disturb_each_other(painter):
    other = GlPainter()
    first, second = [images_of("cells", seed=1, count=4)], [images_of("folds", seed=1, count=4)]
    before = painter.paint(first, (16, 16), 1)
    other.paint(second, (40, 40), 1)
    assert torch.equal(painter.paint(first, (16, 16), 1), before)


def test_a_driver_that_paints_wrongly_is_caught(painter, monkeypatch):
    monkeypatch.setattr(painter, "_unchecked", opengl._IMAGES_BETWEEN_CHECKS)
    monkeypatch.setattr(
        painter, "_atlas", lambda batch, size, supersample: torch.zeros(1, 3, *size)
    )
    with pytest.raises(OpenGLError, match="paints a fixed image wrongly: mean difference"):
        painter.paint([images_of("plasma", seed=1, count=1)], (8, 8), 1)


def test_without_opengl_there_is_one_clear_error(monkeypatch):
    moderngl = pytest.importorskip("moderngl")

    def fails(**_):
        raise Exception("libEGL.so not loaded")

    monkeypatch.setattr(moderngl, "create_context", fails)
    with pytest.raises(OpenGLError, match=r"libEGL.so not loaded.*apt-get install libegl1 libgl1"):
        open_context()
