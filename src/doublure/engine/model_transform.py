"""What happens to the student around a stage's training.

Before: it is pruned, quantized, given new classes, or left as it is. After: what stages made are
members of one student, or the last of them is the student.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from doublure.core.seeding import child
from doublure.engine.distill import transform
from doublure.engine.recipe import Stage
from doublure.nets.ensemble import Ensemble, record_of
from doublure.nets.network import Network


def apply_transform(
    stage: Stage, teacher: Network | None, student: Network, rng: torch.Generator
) -> Network:
    """Return the student that a stage trains: transformed, or unchanged."""
    if stage.model_transform is None:
        return student
    made = transform(
        student,
        teacher,
        stage.model_transform.transform,
        stage.model_transform.source,
        contract=student.contract,
        num_images=stage.model_transform.num_images,
        rng=child(rng, "change"),
    )
    assert isinstance(made, Network)
    return made


def member_of(made: nn.Module, student: Network[Any]) -> Network[Any]:
    """Return a copy of what a stage made, for later stages train the same module."""
    return copy.deepcopy(network_of(made, student))


def ensemble_of(members: Sequence[Network[Any]]) -> Network[Any]:
    """Return the networks that stages made as one; a single one is itself.

    Raises:
        ValueError: they are of different architectures.
    """
    first = members[0]
    if len(members) == 1:
        return first
    if any(member.plan != first.plan for member in members):
        raise ValueError(
            "the members of an ensemble must be of one architecture, but a stage between them "
            "changed it; put the change before the first member"
        )
    body = Ensemble([member.body for member in members])
    plan = (*first.plan, record_of(len(members)))
    return Network(body.eval(), first.contract, first.reference, plan)


def network_of(made: nn.Module, student: Network[Any]) -> Network[Any]:
    """Return the result of a training as a network with the contract of its student."""
    if isinstance(made, Network):
        return made
    return Network(made, student.contract, student.reference, student.plan)
