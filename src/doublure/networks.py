"""Networks by reference, of every task there is: `engine.loading` with the tuple of tasks."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from doublure import tasks
from doublure.core.protocols import Contract
from doublure.engine import loading
from doublure.engine.image_loading import Loaded, Rebuild
from doublure.nets.network import Network
from doublure.nets.plans import rebuild as rebuild_plan
from doublure.nets.references import NetworkRef


def load(
    reference: NetworkRef | str,
    *,
    like: Contract | None = None,
    allow_code: bool | Collection[str | Path] = False,
    rng: torch.Generator | None = None,
    rebuild: Rebuild = rebuild_plan,
) -> Network[Any]:
    """Return the network that a reference names; see `resolve`."""
    return resolve(reference, like=like, allow_code=allow_code, rng=rng, rebuild=rebuild).network


def resolve(
    reference: NetworkRef | str,
    *,
    like: Contract | None = None,
    allow_code: bool | Collection[str | Path] = False,
    rng: torch.Generator | None = None,
    rebuild: Rebuild = rebuild_plan,
) -> Loaded:
    """Return the network that a reference names, with notes.

    Args:
        like: the network is a new one that inherits this contract; a hub's name then stands for
            the architecture only, and nothing is downloaded.
        allow_code: True where a person typed the reference: its own `file:` may run. Files named
            here may run also where a student.json asks for them.
        rng: draws the weights of a network that has none; None draws as seed 0.
        rebuild: applies the plan of a student whose architecture was changed.

    Raises:
        ValueError: with one line that says what is wrong where, and the way out.
    """
    return loading.resolve(
        reference, like=like, allow_code=allow_code, rng=rng, rebuild=rebuild, tasks=tasks.TASKS
    )


def save(network: Network[Any], folder: str | Path) -> None:
    """Write a network and what was done to it, as student.safetensors and student.json."""
    loading.save(network, folder, tasks=tasks.TASKS)
