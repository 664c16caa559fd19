"""The families: a seed is a program, whatever the family; most of what they show is something."""

import pytest
import torch

from doublure.shaders.families import (
    ABSTRACT,
    FAMILIES,
    FIGURES,
    SCENES,
    TEXTURES,
    draw_program,
    program_tape,
)
from doublure.shaders.torch_backend import TorchPainter
from doublure.sources.shaders import worth_showing
from tests.shaders.formulas import CPU

SEEDS = torch.arange(8)
TIMES = torch.linspace(0.1, 10, 8, dtype=torch.float64)


def test_the_families_are_textures_scenes_and_figures():
    assert list(FAMILIES) == [*TEXTURES, *SCENES, *FIGURES]
    assert list(ABSTRACT) == [*TEXTURES, *SCENES]
    assert len(FAMILIES) >= 30


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_is_a_program(family):
    assert program_tape(5, family) == program_tape(5, family)
    assert program_tape(5, family) != program_tape(6, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_most_programs_of_a_family_show_something(family):
    programs = [draw_program(seed, family) for seed in range(4)]
    batch = [program.instances(SEEDS, TIMES) for program in programs]
    images = TorchPainter(CPU).paint(batch, (16, 16), 1)
    assert images.isfinite().all()
    assert worth_showing(images).float().mean() > 0.7


@pytest.mark.parametrize("family", ["plasma", "folds", "julia", "tunnel", "metaballs"])
def test_time_moves_the_picture(family):
    program = draw_program(1, family)
    later = program.instances(SEEDS, TIMES + 1.5)
    images = TorchPainter(CPU).paint([program.instances(SEEDS, TIMES), later], (16, 16), 1)
    assert (images[:8] - images[8:]).abs().mean() > 0.01


def test_an_unknown_family_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown shader family 'leafs'; did you mean 'leaves'"):
        draw_program(0, "leafs")
