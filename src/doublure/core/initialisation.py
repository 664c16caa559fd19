"""How a student's weights begin: what an initialisation must answer to be plugged in."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from doublure.core.protocols import Batch


@runtime_checkable
class Initialized(Protocol):
    """What an initialisation did.

    `how` is one line; `errors` are squared errors relative to the teacher's variance, by layer;
    `notes` say what could not be taken over, and why.
    """

    @property
    def how(self) -> str: ...
    @property
    def errors(self) -> Mapping[str, float]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


@runtime_checkable
class Initialization(Protocol):
    """How a student's weights begin, in place; it is shown about `num_images` images."""

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
