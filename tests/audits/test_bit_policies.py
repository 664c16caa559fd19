"""Policies of one sum of bits: counted, drawn, greedy and exchanged."""

import itertools
from collections import Counter

import pytest
import torch

from doublure.audits.bit_policies import cost_of, draw_policies, exchange, greedy_policy, ways
from doublure.core.seeding import from_seed

BITS = (4, 5, 6, 8)


def all_of(layers: int, total: int) -> list[tuple[int, ...]]:
    return [p for p in itertools.product(BITS, repeat=layers) if sum(p) == total]


@pytest.mark.parametrize(("layers", "total"), [(1, 5), (3, 18), (4, 22), (3, 7)])
def test_policies_of_a_sum_are_counted_exactly(layers, total):
    assert ways(layers, BITS, total)[layers][total] == len(all_of(layers, total))


def test_every_policy_of_a_sum_is_equally_likely():
    drawn = Counter(draw_policies(6000, 3, BITS, 18, from_seed(0)))
    expected = all_of(3, 18)
    assert set(drawn) == set(expected)
    mean = 6000 / len(expected)
    chi_squared = sum((drawn[policy] - mean) ** 2 / mean for policy in expected)
    assert chi_squared < 3 * len(expected)


def test_the_cost_is_the_largest_possible_sum_below_the_mean():
    assert cost_of(6.0, 3, BITS) == 18
    assert cost_of(7.9, 2, BITS) == 14  # 15 would need a 7
    with pytest.raises(ValueError, match="mean_bits must be within the bits 4, 5, 6, 8, got 3"):
        cost_of(3, 3, BITS)


def test_greedy_takes_bits_where_it_hurts_most():
    harm = torch.zeros(4, len(BITS))
    harm[2, 0] = 1.0  # layer 2 at 4 bits
    policy = greedy_policy(harm, BITS, 28)
    assert policy[2] == 4
    assert sum(policy) == 28


def test_an_exchange_keeps_the_sum_and_never_flips_less():
    def flips(policy):
        return (8 - policy[1]) / 8

    made = exchange((6, 6, 6), BITS, flips, 60, from_seed(1))
    assert sum(made) == 18
    assert made[1] == 4
