"""Statements about a network: scores of its task, findings of audits.

As with `protocols`, nothing is inherited; a class only needs the methods.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn

from doublure.core.protocols import Batch

Tag = Literal["measured", "proxy", "predicted"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of an audit: values by name, a verdict in one sentence, and its basis.

    Args:
        tag: measured on real labels, measured on a proxy, or predicted.
        meanings: title, meaning and good direction of the important values, by name.
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
    """Examines a network without changing it."""

    def __call__(
        self, model: nn.Module, reference: nn.Module | None, batches: Iterable[Batch], /
    ) -> Finding: ...


@dataclass(frozen=True, kw_only=True)
class Score:
    """A value and the number of items it was computed on.

    Args:
        signature: signature of the library that computed it, to be quoted with it.
    """

    value: float
    count: int
    signature: str = ""


@runtime_checkable
class Task(Protocol):
    """The scores of a task, which need not be means over batches."""

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]: ...
    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score: ...
