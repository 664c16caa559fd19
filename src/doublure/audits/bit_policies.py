"""Policies: one bit width for each layer, all of the same sum.

What is asked of a policy is how many answers it flips. The worst one of a cost is looked for by
drawing (every policy of that cost equally likely), by a greedy way down (bits are taken where the
layers alone minded most), and by exchanging bits between two layers as long as more answers flip.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

Policy = tuple[int, ...]
# How many answers a policy flips, as a share.
Flips = Callable[[Policy], float]


def cost_of(mean_bits: float, layers: int, bits: Sequence[int]) -> int:
    """Return the sum of bits of so many layers that comes nearest to a mean from below.

    Raises:
        ValueError: the mean lies outside of the widths.
    """
    check_mean(mean_bits, bits)
    wanted = int(Fraction(mean_bits).limit_denominator(1000) * layers)
    counts = ways(layers, bits, wanted)[layers]
    return max(total for total in range(wanted + 1) if counts[total])


def check_mean(mean_bits: float, bits: Sequence[int]) -> None:
    """Raise unless a mean lies within the widths."""
    if not min(bits) <= mean_bits <= max(bits):
        raise ValueError(
            f"mean_bits must be within the bits {', '.join(map(str, bits))}, got {mean_bits:g}"
        )


def ways(layers: int, bits: Sequence[int], total: int) -> list[list[int]]:
    """Return, for 0 to `layers` layers, how many policies have each sum from 0 to `total`."""
    table = [[1] + [0] * total]
    for _ in range(layers):
        before = table[-1]
        row = [sum(before[s - b] for b in bits if b <= s) for s in range(total + 1)]
        table.append(row)
    return table


def draw_policies(
    count: int, layers: int, bits: Sequence[int], total: int, rng: torch.Generator
) -> list[Policy]:
    """Return policies of one sum, every such policy equally likely."""
    table = ways(layers, bits, total)
    if not table[layers][total]:
        raise ValueError(f"no {layers} of the bits {tuple(bits)} add up to {total}")
    drawn = []
    for _ in range(count):
        policy, left = list[int](), total
        for place in range(layers, 0, -1):
            options = [b for b in bits if b <= left and table[place - 1][left - b]]
            whole = sum(table[place - 1][left - b] for b in options)
            shares = torch.tensor([table[place - 1][left - b] / whole for b in options])
            width = options[int(torch.multinomial(shares, 1, generator=rng))]
            policy.append(width)
            left -= width
        drawn.append(tuple(policy))
    return drawn


def greedy_policy(harm: Float[Tensor, "layers bits"], bits: Sequence[int], total: int) -> Policy:
    """Return the policy that takes bits where layers alone minded most for each bit taken.

    The last layers make up what is left over, upwards.
    """
    layers, most = len(harm), len(bits) - 1
    chosen = [most] * layers
    while True:
        left = sum(bits[place] for place in chosen) - total
        steps = [
            (
                (harm[layer, lower] - harm[layer, place]).item() / (bits[place] - bits[lower]),
                layer,
                lower,
            )
            for layer, place in enumerate(chosen)
            for lower in range(place)
            if bits[place] - bits[lower] <= left
        ]
        if left <= 0 or not steps:
            break
        _, layer, lower = max(steps)
        chosen[layer] = lower
    policy = [bits[place] for place in chosen]
    return _at_cost(policy, bits, total)


def exchange(
    policy: Policy, bits: Sequence[int], flips: Flips, rounds: int, rng: torch.Generator
) -> Policy:
    """Return a policy of the same sum that flips at least as much, after so many trials.

    A trial takes bits of one layer and gives them to another.
    """
    best, most = policy, flips(policy)
    for _ in range(rounds):
        one, other = torch.randperm(len(policy), generator=rng)[:2].tolist()
        pairs = [
            (a, b)
            for a in bits
            for b in bits
            if a + b == best[one] + best[other] and a != best[one]
        ]
        if not pairs:
            continue
        a, b = pairs[int(torch.randint(len(pairs), (), generator=rng))]
        trial = list(best)
        trial[one], trial[other] = a, b
        share = flips(tuple(trial))
        if share > most:
            best, most = tuple(trial), share
    return best


def _at_cost(policy: Sequence[int], bits: Sequence[int], total: int) -> Policy:
    """Return a policy whose last layers changed as little as needed for the sum."""
    table = ways(len(policy), bits, total)
    for kept in range(len(policy), -1, -1):
        left = total - sum(policy[:kept])
        free = len(policy) - kept
        if left >= 0 and table[free][left]:
            made = list(policy[:kept])
            for place in range(free, 0, -1):
                width = max(b for b in bits if b <= left and table[place - 1][left - b])
                made.append(width)
                left -= width
            return tuple(made)
    raise ValueError(f"no {len(policy)} of the bits {tuple(bits)} add up to {total}")
