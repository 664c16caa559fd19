"""Initialisation of a student's weights: the protocol for plug-in parts."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from doublure.core.protocols import Batch


@runtime_checkable
class Initialized(Protocol):
    """Result of an initialisation.

    `how` is one line; `errors` are squared errors relative to the teacher's variance, by layer;
    `notes` say what could not be copied, and why.
    """

    @property
    def how(self) -> str: ...
    @property
    def errors(self) -> Mapping[str, float]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


@runtime_checkable
class Initialization(Protocol):
    """Initialises a student's weights in place, from about `num_images` images."""

    @property
    def num_images(self) -> int: ...

    def __call__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        batches: Sequence[Batch],
        rng: torch.Generator,
        /,
    ) -> Initialized: ...
