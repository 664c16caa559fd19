import itertools

import pytest
import torch

from doublure.compress.choosing_bits import (
    behind_wall,
    choose_bits,
    greedy,
    integer_program,
    total,
)
from doublure.core.optional import reason_absent
from doublure.core.seeding import from_seed

WIDTHS = torch.tensor([2.0, 3.0, 4.0, 8.0], dtype=torch.float64)


def tables(layers: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = from_seed(seed)
    harm = torch.rand(layers, 4, generator=rng, dtype=torch.float64).cumsum(1).flip(1)
    sizes = torch.rand(layers, 1, generator=rng, dtype=torch.float64) + 0.1
    return harm, sizes * WIDTHS


@pytest.mark.parametrize("seed", range(5))
def test_the_integer_program_finds_the_enumerated_optimum(seed):
    harm, cost = tables(5, seed)
    budget = 0.6 * cost[:, -1].sum().item()
    policies = [
        policy
        for policy in itertools.product(range(4), repeat=5)
        if total(cost, policy) <= budget + 1e-9
    ]
    best = min(total(harm, policy) for policy in policies)
    assert total(harm, integer_program(harm, cost, budget)) == pytest.approx(best)


@pytest.mark.parametrize("search", ["milp", "greedy", "optuna", "rl"])
def test_every_search_stays_within_the_budget_and_repeats_itself(search):
    module = {"optuna": "optuna", "rl": "stable_baselines3"}.get(search)
    if module and reason_absent(module):
        pytest.skip(f"{module} is not installed")
    harm, cost = tables(4)
    budget = 0.5 * cost[:, -1].sum().item()
    before = torch.random.get_rng_state()
    one, other = (choose_bits(harm, cost, budget, search, seed=1, trials=24) for _ in range(2))
    assert one == other
    assert total(cost, one) <= budget
    assert total(harm, one) >= total(harm, integer_program(harm, cost, budget)) - 1e-9
    assert torch.equal(torch.random.get_rng_state(), before)


def test_with_room_for_all_bits_all_get_them():
    harm, cost = tables(4)
    budget = cost[:, -1].sum().item()
    assert integer_program(harm, cost, budget) == greedy(harm, cost, budget) == (3, 3, 3, 3)


def test_the_wall_lowers_the_last_layers_first():
    cost = WIDTHS.expand(3, 4)
    assert behind_wall((3, 3, 3), cost, 24.0) == (3, 3, 3)
    assert behind_wall((3, 3, 3), cost, 20.0) == (3, 3, 2)
    assert behind_wall((3, 3, 3), cost, 12.0) == (2, 2, 2)


def test_a_budget_below_the_fewest_bits_is_refused_with_them():
    harm, cost = tables(3)
    least = cost[:, 0].sum().item()
    with pytest.raises(ValueError, match=f"below {least:.6g}, which the fewest bits cost"):
        choose_bits(harm, cost, 0.9 * least, "milp")
