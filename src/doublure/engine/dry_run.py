"""Dry run: a check of each network's output, and digests of weights."""

import hashlib
from typing import Any

import torch
from torch import nn

from doublure.engine.task import Task
from doublure.nets.network import Network


def dry_run(role: str, network: Network[Any], task: Task) -> list[str]:
    """Raise unless the weights are finite and the output for a blank input fits the task.

    Args:
        role: "teacher" or "student", for messages.

    Returns:
        warnings for the user, one sentence each.
    """
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"the {role}'s '{name.removeprefix('body.')}' holds values that are NaN or "
                "infinite; take an earlier checkpoint"
            )
    return task.check(role, network)


def weights_digest(network: nn.Module) -> str:
    """Return a digest of a network's weights."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
