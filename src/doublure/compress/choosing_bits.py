"""One bit width for each layer: the least harm within a budget.

Layers l, widths b, harm D[l, b], cost c[l, b], budget B; x[l, b] is 1 where l gets b:

    minimise sum D x   with   sum_b x[l, b] = 1 for each l,   sum c x <= B,   x in {0, 1}

Harms are added up, which holds as long as they are small. "milp" solves the integer program exactly
(Yao et al.: HAWQ-V3, arXiv:2011.10680, sec. 3.4); "greedy" lowers, step by step, the layer that
minds least for what it saves; "optuna" draws policies by tree-structured Parzen estimators; "rl" is
an agent that goes from layer to layer (Wang et al.: HAQ, arXiv:1811.08886; see `bit_environment`).
The two last make every policy fit by HAQ's wall: bits fall from the last layer backwards until it
does.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from doublure.core.checks import one_of
from doublure.core.optional import require

Search = Literal["milp", "greedy", "rl", "optuna"]
# Columns of the harm table, by layer.
Choice = tuple[int, ...]
# Policies that the two searches by trial may look at.
TRIALS = 400


def choose_bits(
    harm: Float[Tensor, "layers bits"],
    cost: Float[Tensor, "layers bits"],
    budget: float,
    by: Search,
    *,
    seed: int = 0,
    trials: int = TRIALS,
    features: Float[Tensor, "layers features"] | None = None,
) -> Choice:
    """Return the column of each layer's bits.

    Args:
        harm: D; columns go from few bits to many.
        cost: c, which grows with the bits.
        trials: policies that "rl" and "optuna" look at.
        features: of the layers, in [0, 1], for "rl".

    Raises:
        ValueError: not even the fewest bits cost as little as the budget.
    """
    one_of("search", by, get_args(Search))
    least = cost.min(1).values.sum().item()
    if least > budget * (1 + 1e-9):
        raise ValueError(
            f"the budget {budget:,.6g} is below {least:,.6g}, which the fewest bits cost; "
            "ask for more, or allow fewer bits"
        )
    if by == "milp":
        return integer_program(harm, cost, budget)
    if by == "greedy":
        return greedy(harm, cost, budget)
    if by == "optuna":
        return _by_optuna(harm, cost, budget, seed, trials)
    require("gymnasium")
    require("stable_baselines3")
    from doublure.compress.bit_environment import choose_by_agent

    return choose_by_agent(harm, cost, budget, features, seed, trials)


def integer_program(
    harm: Float[Tensor, "layers bits"], cost: Float[Tensor, "layers bits"], budget: float
) -> Choice:
    """Return the policy of least harm within the budget."""
    from scipy import optimize  # slow to import, so only here

    constrain: Any = optimize.LinearConstraint  # type: ignore[attr-defined]  # scipy's stub
    bound: Any = optimize.Bounds  # type: ignore[attr-defined]  # scipy's stub
    solve: Any = optimize.milp  # type: ignore[attr-defined]  # scipy's stub
    layers, widths = harm.shape
    each = np.kron(np.eye(layers), np.ones((1, widths)))
    constraints = [
        constrain(each, 1, 1),
        constrain(cost.flatten().numpy()[None], -np.inf, budget),
    ]
    # A scale for the solver's tolerances: harms span many orders of magnitude.
    scale = max(harm.max().item(), 1e-12)
    solved = solve(
        (harm / scale).flatten().numpy(),
        constraints=constraints,
        integrality=np.ones(layers * widths),
        bounds=bound(0, 1),
    )
    if solved.x is None:
        raise ValueError(f"the integer program has no solution: {solved.message}")
    return tuple(int(place) for place in solved.x.reshape(layers, widths).argmax(1))


def greedy(
    harm: Float[Tensor, "layers bits"], cost: Float[Tensor, "layers bits"], budget: float
) -> Choice:
    """Return the policy that begins at the most bits and lowers who minds least for what it saves.

    A layer may fall by several widths at once: harms need not grow evenly.
    """
    chosen = [harm.shape[1] - 1] * len(harm)
    while total(cost, chosen) > budget:
        steps = []
        for layer, place in enumerate(chosen):
            for lower in range(place):
                saved = (cost[layer, place] - cost[layer, lower]).item()
                if saved > 0:
                    more = (harm[layer, lower] - harm[layer, place]).item()
                    steps.append((more / saved, layer, lower))
        _, layer, lower = min(steps)
        chosen[layer] = lower
    return tuple(chosen)


def total(table: Float[Tensor, "layers bits"], choice: Sequence[int]) -> float:
    """Return the sum of a table's entries over the layers."""
    return table[torch.arange(len(table)), torch.tensor(choice)].sum().item()


def behind_wall(choice: Sequence[int], cost: Float[Tensor, "layers bits"], budget: float) -> Choice:
    """Return a policy lowered from the last layer backwards, a width at a time, until it fits."""
    fitting = list(choice)
    while total(cost, fitting) > budget:
        for layer in reversed(range(len(fitting))):
            if fitting[layer] > 0 and total(cost, fitting) > budget:
                fitting[layer] -= 1
    return tuple(fitting)


def _by_optuna(harm: Tensor, cost: Tensor, budget: float, seed: int, trials: int) -> Choice:
    optuna = require("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = [f"layer{place}" for place in range(len(harm))]

    def policy(suggest: Callable[[str], int]) -> Choice:
        return behind_wall([suggest(name) for name in names], cost, budget)

    def value(trial: object) -> float:
        draw = trial.suggest_int  # type: ignore[attr-defined]  # of an extra without types
        return total(harm, policy(lambda name: draw(name, 0, harm.shape[1] - 1)))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(value, n_trials=trials)
    return policy(lambda name: int(study.best_params[name]))
