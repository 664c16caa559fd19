"""Doubts about a network with logits as outputs; each text continues 'the network'."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.nets.batchnorm_statistics import by_batch
from doublure.nets.network import Network

PROBABILITIES = (
    "returns probabilities, not logits, and soft targets of them are nearly uniform; remove its "
    "last softmax"
)


BY_BATCH = (
    "depends on the other images of a batch, as its BatchNorm '{layer}' has no running statistics "
    "(track_running_stats=False)"
)


ONE_NUMBER = (
    "has a single output, for which a softmax is constant; give it two logits (no, yes): "
    "torch.cat([0 * z, z], 1)"
)


def doubts(network: Network[Any], answer: Any) -> list[str]:
    """Return the doubts about a network with this output; each text continues 'the network'."""
    found = []
    if isinstance(answer, torch.Tensor) and are_probabilities(answer):
        found.append(PROBABILITIES)
    if layer := by_batch(network.body):
        found.append(BY_BATCH.format(layer=layer))
    return found


def are_probabilities(answers: Float[Tensor, "batch classes"]) -> bool:
    """Return whether each row is a distribution over classes, like the output of a softmax."""
    sums = answers.float().sum(-1)
    return bool((answers >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3))
