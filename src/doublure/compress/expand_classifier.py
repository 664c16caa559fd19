"""Widening: the network of the old classes gets an output for each new one.

The head has |C_o| + |C_k| rows, of which the first |C_o| are the old ones, unchanged; so are all
other weights.
"""

import copy
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from doublure.core.checks import positive
from doublure.core.protocols import Batch
from doublure.core.seeding import child
from doublure.nets.expanded import expand_classifier_, last_linear, record_of
from doublure.nets.network import Network


@dataclass(frozen=True, kw_only=True)
class ExpandClassifier:
    """Transform: more classes behind the old ones.

    Args:
        num_new: how many.
        names: of the new classes; needed where the old ones have names.
    """

    num_new: int
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        positive("num_new", self.num_new)
        if self.names is not None and len(self.names) != self.num_new:
            raise ValueError(
                f"names must have one entry per new class ({self.num_new}), got {len(self.names)}"
            )

    def __call__(
        self, model: nn.Module, batches: Iterable[Batch] | None, rng: torch.Generator
    ) -> Network:
        """Return `model` with new outputs; it needs to see nothing."""
        if not isinstance(model, Network):
            raise TypeError(f"widening needs a Network, got {type(model).__name__}")
        old = model.contract
        classes = old.classes + self.num_new
        names = None
        if self.names is not None:
            # Classes that nobody named are called by their index.
            names = (*(old.names or map(str, range(old.classes))), *self.names)
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"the class '{twice[0]}' is known already; give new ones only")
        made = copy.deepcopy(model)
        head = last_linear(made.body, old.classes)
        expand_classifier_(made.body, head, classes, child(rng, "head"))
        made.contract = dataclasses.replace(old, classes=classes, names=names)
        made.plan = (*model.plan, record_of(head, classes))
        return made
