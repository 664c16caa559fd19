"""Several networks as one: the mean of their probabilities.

    p(y | x) = 1/M sum_m softmax(f_m(x)),    output: log p

Outputs that are no logits of classes (boxes, values) have no probabilities: such networks bring a
combination of their own, as an architecture of a `file:`.

The record {"kind": "ensemble", "members": M} stands behind what was done to a member.
Lakshminarayanan, Pritzel, Blundell: arXiv:1612.01474, sec. 2.4.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

KIND = "ensemble"


class Ensemble(nn.Module):
    """Networks of one architecture that answer together.

    Args:
        members: at least one; each takes the same input and answers with logits, classes last or
            in dimension 1 of maps.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Any) -> Float[Tensor, "batch classes *map"]:
        """Return the logarithm of the members' mean probabilities."""
        logits = torch.stack([member(inputs) for member in self.members])
        # In logarithms, so that small probabilities do not become zero.
        log_p = logits.log_softmax(2)
        mean: Tensor = log_p.logsumexp(0) - math.log(len(log_p))
        return mean


def record_of(members: int) -> dict[str, Any]:
    """Return the record of an ensemble."""
    return {"kind": KIND, "members": members}


def rebuild(body: nn.Module, record: Mapping[str, Any]) -> Ensemble:
    """Return an ensemble of copies of a fresh architecture; the weights come later."""
    count = record["members"]
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"an ensemble of {count} members cannot be; the record is damaged")
    return Ensemble([body, *(copy.deepcopy(body) for _ in range(count - 1))])
