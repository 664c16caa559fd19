"""What a stage does to the student before it trains: pruned, quantized, widened, or nothing."""

from typing import Any

import torch
from torch import nn

from doublure.core.seeding import child
from doublure.engine.distill import transform
from doublure.engine.recipe import Stage
from doublure.nets.network import Network


def apply_transform(
    stage: Stage, teacher: Network | None, student: Network, rng: torch.Generator
) -> Network:
    """Return the student that a stage trains: what its change makes of it, or itself."""
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


def network_of(made: nn.Module, student: Network[Any]) -> Network[Any]:
    """Return what a training made as a network with the contract of its student."""
    if isinstance(made, Network):
        return made
    return Network(made, student.contract, student.reference, student.plan)
