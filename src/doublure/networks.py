"""Networks by reference, of all tasks: `engine.loading` with the tuple of tasks."""

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
    """Return the network of a reference; see `resolve`."""
    return resolve(reference, like=like, allow_code=allow_code, rng=rng, rebuild=rebuild).network


def resolve(
    reference: NetworkRef | str,
    *,
    like: Contract | None = None,
    allow_code: bool | Collection[str | Path] = False,
    rng: torch.Generator | None = None,
    rebuild: Rebuild = rebuild_plan,
) -> Loaded:
    """Return the network of a reference, with notes.

    Args:
        like: contract that a new network inherits; a hub's name then means the architecture only,
            without download.
        allow_code: True if the user typed the reference: its own `file:` may run. Files listed here
            may also run if a student.json needs them.
        rng: generator for random weights; None uses seed 0.
        rebuild: applies the plan of a student with a changed architecture.

    Raises:
        ValueError: with one line of place, reason and remedy.
    """
    return loading.resolve(
        reference, like=like, allow_code=allow_code, rng=rng, rebuild=rebuild, tasks=tasks.TASKS
    )


def save(network: Network[Any], folder: str | Path) -> None:
    """Write a network and its plan, as student.safetensors and student.json."""
    loading.save(network, folder, tasks=tasks.TASKS)
