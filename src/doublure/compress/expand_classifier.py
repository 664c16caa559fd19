"""Expand classifier: add an output for each new class.

The last layer gets |C_o| + |C_k| rows. The first |C_o| rows, of the old classes, and all other
weights do not change.
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
    """Transform: append new classes to the old ones.

    Args:
        num_new: number of new classes.
        names: names of the new classes.
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
        """Return `model` with new outputs; `batches` is not used."""
        if not isinstance(model, Network):
            raise TypeError(f"expanding a classifier needs a Network, got {type(model).__name__}")
        old = model.contract
        classes = old.classes + self.num_new
        names = None
        if self.names is not None:
            # Old classes without names are named by their index.
            names = (*(old.names or map(str, range(old.classes))), *self.names)
            duplicates = sorted({name for name in names if names.count(name) > 1})
            if duplicates:
                raise ValueError(
                    f"the class '{duplicates[0]}' exists already; name only new classes"
                )
        expanded = copy.deepcopy(model)
        head = last_linear(expanded.body, old.classes)
        expand_classifier_(expanded.body, head, classes, child(rng, "head"))
        expanded.contract = dataclasses.replace(old, classes=classes, names=names)
        expanded.plan = (*model.plan, record_of(head, classes))
        return expanded
