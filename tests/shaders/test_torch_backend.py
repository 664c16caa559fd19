"""Painting in torch: an image is the same in any company, in any block, at any thread count."""

import pytest
import torch

from doublure.shaders import torch_backend
from doublure.shaders.expressions import X, Y, parameter
from doublure.shaders.families import FAMILIES, draw_program
from doublure.shaders.sketch import Range
from doublure.shaders.torch_backend import TorchPainter
from tests.shaders.formulas import CPU, program

SEEDS = torch.arange(5)
TIMES = torch.linspace(0.1, 9, 5, dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_does_not_depend_on_its_company(family):
    drawn = draw_program(1, family)
    together = TorchPainter(CPU).paint([drawn.instances(SEEDS, TIMES)], (13, 17), 2)
    alone = TorchPainter(CPU).paint([drawn.instances(SEEDS[3:4], TIMES[3:4])], (13, 17), 2)
    assert torch.equal(alone[0], together[3])
    assert together.shape == (5, 3, 13, 17)
    assert together.isfinite().all()
    assert together.min() >= 0
    assert together.max() <= 1


def test_the_size_of_a_block_changes_no_bit(monkeypatch):
    instances = [draw_program(2, "leaves").instances(SEEDS, TIMES)]
    whole = TorchPainter(CPU).paint(instances, (24, 24), 2)
    monkeypatch.setattr(torch_backend, "_BLOCK", 777)
    assert torch.equal(TorchPainter(CPU).paint(instances, (24, 24), 2), whole)


def test_a_painter_remembers_nothing_of_earlier_batches():
    painter = TorchPainter(CPU)
    first, second = (draw_program(3, f).instances(SEEDS, TIMES) for f in ("folds", "blobs"))
    before = painter.paint([first], (16, 16), 2)
    painter.paint([second, first], (16, 24), 1)
    assert torch.equal(painter.paint([first], (16, 16), 2), before)


def test_a_pixel_is_the_mean_of_its_samples():
    drawn = program(X * X, Y, X * Y)
    instances = [drawn.instances(SEEDS, TIMES)]
    fine = TorchPainter(CPU).paint(instances, (30, 12), 1)
    coarse = TorchPainter(CPU).paint(instances, (10, 4), 3)
    torch.testing.assert_close(coarse, torch.nn.functional.avg_pool2d(fine, 3))


def test_programs_follow_each_other_in_order():
    ranges = (Range(0, 0), Range(0, 1))
    one, half = (program(*[parameter(1) * 0.0 + v] * 3, ranges=ranges) for v in (1.0, 0.5))
    images = TorchPainter(CPU).paint(
        [one.instances(SEEDS[:2], TIMES[:2]), half.instances(SEEDS[:1], TIMES[:1])], (2, 2), 1
    )
    assert images[:, 0, 0, 0].tolist() == [1.0, 1.0, 0.5]


def test_part_of_some_instances_is_those_images():
    instances = draw_program(4, "plasma").instances(SEEDS, TIMES)
    images = TorchPainter(CPU).paint([instances], (8, 8), 1)
    assert torch.equal(TorchPainter(CPU).paint([instances.part(1, 3)], (8, 8), 1), images[1:3])
