"""What is doubtful in a network that answers images with logits, each said of 'the network'."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.nets.batchnorm_statistics import by_batch
from doublure.nets.network import Network

PROBABILITIES = (
    "answers probabilities, not logits, and soft targets taken from them are nearly uniform; leave "
    "its last softmax out"
)


BY_BATCH = (
    "answers an image by the others of its batch, as its BatchNorm '{layer}' keeps no running "
    "statistics (track_running_stats=False)"
)


ONE_NUMBER = (
    "answers one number for an image, and among one class there is nothing to tell; let it answer "
    "two, the logits of no and of yes: torch.cat([0 * z, z], 1)"
)


def doubts(network: Network[Any], answer: Any) -> list[str]:
    """Return what is doubtful in a network that gave this answer, each as said of 'the network'."""
    found = []
    if isinstance(answer, torch.Tensor) and are_probabilities(answer):
        found.append(PROBABILITIES)
    if layer := by_batch(network.body):
        found.append(BY_BATCH.format(layer=layer))
    return found


def are_probabilities(answers: Float[Tensor, "batch classes"]) -> bool:
    """Return whether each row is a distribution over classes, as behind a softmax."""
    sums = answers.float().sum(-1)
    return bool((answers >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3))
