"""What is said of a network: the scores of its task, the findings of an audit.

As with `protocols`, nothing is inherited; a class that has the methods is a tenant.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn

from doublure.core.protocols import Batch

Tag = Literal["measured", "proxy", "predicted"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an audit found: figures by name, a verdict in one sentence, and how it is known.

    Args:
        tag: measured on real labels, measured on a proxy, or predicted.
        meanings: title, what it says, and what is good, of the figures that matter, by name.
        pictures: arrays of uint8 pixels (height, width, 3) by caption.
    """

    name: str
    verdict: Literal["ok", "warn", "fail"]
    summary: str
    tag: Tag
    measurements: Mapping[str, Any] = field(default_factory=dict)
    meanings: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Audit(Protocol):
    """Looks and changes nothing."""

    def __call__(
        self, model: nn.Module, reference: nn.Module | None, batches: Iterable[Batch], /
    ) -> Finding: ...


@dataclass(frozen=True, kw_only=True)
class Score:
    """A figure and how many items it was taken over.

    Args:
        signature: what a library that took it says of how, to be quoted with it.
    """

    value: float
    count: int
    signature: str = ""


@runtime_checkable
class Task(Protocol):
    """What a network is for, and how that is scored; scores need not be means over batches."""

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]: ...
    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score: ...
