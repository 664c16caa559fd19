"""Choices from a program's seed, constants from an image's: hashes, not draws."""

import torch

from doublure.shaders.sketch import Range, Ranges, Sketch, uniforms

SEEDS = torch.tensor([3, 2**62 + 5, 3 + 2**32])
NONE = torch.zeros(3, dtype=torch.int64)


def test_a_program_always_makes_the_same_choices():
    first, second = Sketch(7), Sketch(7)
    assert [first.pick(range(100)) for _ in range(20)] == [
        second.pick(range(100)) for _ in range(20)
    ]
    assert [Sketch(seed).pick(range(100)) for seed in range(9)] != [Sketch(1).pick(range(100))] * 9


def test_chance_is_the_share_of_programs():
    share = sum(Sketch(seed).chance(0.3) for seed in range(2000)) / 2000
    assert abs(share - 0.3) < 0.03


def test_an_images_numbers_do_not_depend_on_its_company_or_on_how_many_are_asked():
    together = uniforms(SEEDS, NONE, 50)
    for place, seed in enumerate(SEEDS):
        alone = uniforms(seed.view(1), NONE[:1], 80)
        assert torch.equal(alone[:50, 0], together[:, place])


def test_both_halves_of_a_seed_and_the_attempt_count():
    values = uniforms(SEEDS, NONE, 50)
    assert not torch.equal(values[:, 0], values[:, 2])
    assert not torch.equal(values, uniforms(SEEDS, NONE + 1, 50))


def test_uniforms_are_uniform():
    values = uniforms(torch.arange(2000), torch.zeros(2000, dtype=torch.int64), 20)
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values.float(), 16, 0, 1)
    assert ((counts - 2500) ** 2 / 2500).sum() < 38  # 0.1 % quantile at 15 degrees of freedom
    assert torch.corrcoef(values).fill_diagonal_(0).abs().max() < 0.12


def test_parameters_lie_in_their_ranges():
    ranges = Ranges.of((Range(0, 0), Range(-2.0, 3.0), Range(0.1, 10.0, logarithmic=True)))
    seeds = torch.arange(1000)
    times = torch.linspace(0, 9, 1000, dtype=torch.float64)
    values = ranges.parameters(seeds, torch.zeros_like(seeds), times)
    assert torch.equal(values[0], times)
    assert (values[1].min() >= -2, values[1].max() <= 3) == (True, True)
    assert abs(values[1].mean() - 0.5) < 0.15
    # Half of a logarithmic range lies below its geometric mean.
    assert abs((values[2] < 1).double().mean() - 0.5) < 0.05
