"""An agent that gives layer after layer its bits.

An episode goes through the layers in order, as in HAQ (Wang et al., arXiv:1811.08886). The
observation is the features of a layer, its place and the action before, all in [0, 1]; an action in
[0, 1] is the place of the width among those allowed. At the end the wall makes the policy fit, and
the reward is minus its harm, as a share of the harm at the fewest bits everywhere.

Differs from the paper: proximal policy optimisation in place of DDPG; the reward is harm measured
without labels, not accuracy; features are size, products and harm, not the shape of the layer; one
action sets the bits of weights and inputs.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from doublure.compress.choosing_bits import Choice, behind_wall, total
from doublure.core.optional import require

_BATCHES_AN_EPISODE = 8


def make_environment(
    harm: Float[Tensor, "layers bits"],
    cost: Float[Tensor, "layers bits"],
    budget: float,
    features: Float[Tensor, "layers features"],
) -> Any:
    """Return the environment; its attribute `best` is the best policy that any episode ended in."""
    gymnasium = require("gymnasium")
    layers, widths = harm.shape
    seen = torch.cat([features, torch.linspace(0, 1, layers)[:, None]], dim=1).float().numpy()
    worst = max(total(harm, [0] * layers), 1e-12)
    size = (seen.shape[1] + 1,)

    class BitsByLayer(gymnasium.Env):  # type: ignore[misc, name-defined]  # an extra without types
        observation_space = gymnasium.spaces.Box(0.0, 1.0, size, np.float32)
        action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        best: Choice = behind_wall([widths - 1] * layers, cost, budget)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.chosen: list[int] = []
            return self._observe(1.0), {}

        def step(self, action: Any) -> Any:
            place = float(np.clip(action[0], 0.0, 1.0))
            self.chosen.append(round(place * (widths - 1)))
            if len(self.chosen) < layers:
                return self._observe(place), 0.0, False, False, {}
            policy = behind_wall(self.chosen, cost, budget)
            if total(harm, policy) < total(harm, self.best):
                self.best = policy
            return self._observe(place), -total(harm, policy) / worst, True, False, {}

        def _observe(self, before: float) -> Any:
            row = seen[min(len(self.chosen), layers - 1)]
            return np.append(row, np.float32(before)).astype(np.float32)

    return BitsByLayer()


def choose_by_agent(
    harm: Float[Tensor, "layers bits"],
    cost: Float[Tensor, "layers bits"],
    budget: float,
    features: Float[Tensor, "layers features"] | None,
    seed: int,
    episodes: int,
) -> Choice:
    """Return the best policy of an agent's training."""
    layers = len(harm)
    if features is None:
        features = torch.zeros(layers, 0)
    environment = make_environment(harm, cost, budget, features)
    with _own_randomness():
        agent = require("stable_baselines3").PPO(
            "MlpPolicy",
            environment,
            n_steps=layers * _BATCHES_AN_EPISODE,
            batch_size=layers * _BATCHES_AN_EPISODE,
            gamma=1.0,
            seed=seed,
            device="cpu",
        )
        agent.learn(total_timesteps=layers * episodes)
    best: Choice = environment.best
    return best


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Give back the generators of the process as they were: the library seeds all of them."""
    # The legacy state is the one that is seeded.
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # see above
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  # see above
