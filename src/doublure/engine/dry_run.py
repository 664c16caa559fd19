"""Before the work begins: does each network answer, and which weights are they?"""

import hashlib
from typing import Any

import torch
from torch import nn

from doublure.engine.task import Task
from doublure.nets.network import Network


def dry_run(role: str, network: Network[Any], task: Task) -> list[str]:
    """Raise unless the weights are finite and a blank input is answered as the task agrees.

    Args:
        role: "teacher" or "student", for messages.

    Returns:
        what a person should be warned of, one sentence each.
    """
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"the {role}'s '{name.removeprefix('body.')}' holds values that are NaN or "
                "infinite; take an earlier checkpoint"
            )
    return task.check(role, network)


def weights_digest(network: nn.Module) -> str:
    """Return what tells a network's weights from any others."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
