"""Sentences with their translations, in shuffled epochs of batches of similar length.

An epoch is a permutation of all sentences drawn from the seed and the epoch's number, cut into
blocks of `BLOCK` batches; in a block, sentences are sorted by length and divided into batches,
which are shuffled. So there is little padding, and the stream has no state. The last partial batch
of an epoch is dropped.

A share is held out by a hash of the source sentence: equal sentences are in the same part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from doublure.core.checks import share
from doublure.core.protocols import Batch, StreamContext
from doublure.core.seeding import child
from doublure.sources.surrogate import hold_out
from doublure.tasks.translation.contract import PAD, TextContract
from doublure.tasks.translation.decoding import prefix_of
from doublure.tasks.translation.parallel_text import (
    ParallelText,
    open_text,
    padded,
    place_of,
    source_tokens,
    target_tokens,
)

BLOCK = 50


def text_batch(
    source: Int64[Tensor, "batch source"], target: Int64[Tensor, "batch target"], **fields: Any
) -> Batch:
    """Return the batch of these sentences and the prefix of each token, for both networks."""
    view = {"source": source, "prefix": prefix_of(target)}
    views = {"student": view, "teacher": view}
    return Batch(views=views, labels=target, mask=target != PAD, **fields)


def batches_of(
    order: Int64[Tensor, " places"],
    lengths: Int64[Tensor, " all"],
    batch_size: int,
    shuffled: Tensor,
) -> Int64[Tensor, "batches batch"]:
    """Return the batches of an epoch.

    Args:
        order: the shuffled indices of the sentences.
        shuffled: a random number for each batch, which gives the order in its block.
    """
    batches: list[Tensor] = []
    whole = len(order) // batch_size * batch_size
    for start in range(0, whole, BLOCK * batch_size):
        block = order[start : min(start + BLOCK * batch_size, whole)]
        by_length = block[lengths[block].argsort(stable=True)]
        cut = by_length.view(-1, batch_size)
        first = len(batches)
        batches += [*cut[shuffled[first : first + len(cut)].argsort()]]
    return torch.stack(batches)


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Source: parallel text. The corpus is the prefix of every token.

    Args:
        data: a folder of parallel text, or two files without their language; see
            `tasks.translation.parallel_text`.
        held_out: share of the distinct sentences in the held-out split.
    """

    data: str
    held_out: float = 0.02

    def __post_init__(self) -> None:
        share("held_out", self.held_out)

    @property
    def paths(self) -> tuple[str, ...]:
        return (place_of(self.data),)

    def open(
        self, context: StreamContext[Any], teacher: nn.Module | None, rng: torch.Generator
    ) -> "SentenceStream":
        contract = context.contract
        if not isinstance(contract, TextContract):
            raise ValueError("sentences are for networks that translate, not for images")
        text = open_text(self.data, split="train", languages=contract.languages)
        places = torch.arange(len(text))
        if self.held_out > 0:
            train, held = hold_out(text.digests, self.held_out)
            places = train if context.split == "train" else held
        elif context.split == "held_out":
            raise ValueError(f"held_out is 0, so nothing of {self.data} is held out; raise it")
        return SentenceStream(text, places, context, child(rng, context.split))


class SentenceStream:
    """Stream of shuffled epochs over some sentences of a set of `count`."""

    def __init__(
        self,
        text: ParallelText,
        places: Int64[Tensor, " places"],
        context: StreamContext[TextContract],
        rng: torch.Generator,
    ) -> None:
        self.context, self.count, self.notes = context, len(text), text.notes
        self._rng = rng
        # A set smaller than a batch is repeated in it.
        self._places = places.repeat(-(-context.batch_size // len(places)))
        self._sources = source_tokens(text.sources, context.contract)
        self._targets = target_tokens(text.targets, context.contract)
        lengths = zip(self._sources, self._targets, strict=True)
        self._lengths = torch.tensor([1000 * len(one) + len(other) for one, other in lengths])
        # A cache: a function of seed and epoch.
        self._epoch, self._batches = -1, places[None]

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        context = self.context
        epoch, place = divmod(
            step * context.world + context.rank, len(self._places) // context.batch_size
        )
        index = self._shuffled(epoch)[place]
        source, target = self._padded(self._sources, index), self._padded(self._targets, index)
        return text_batch(source, target, index=index.to(context.device))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"a stream of sentences has no state, got {sorted(state)}")

    def _padded(self, rows: Sequence[Sequence[int]], index: Tensor) -> Tensor:
        return padded([rows[place] for place in index.tolist()]).to(self.context.device)

    def _shuffled(self, epoch: int) -> Int64[Tensor, "batches batch"]:
        if epoch != self._epoch:
            rng, count = child(self._rng, "epoch", epoch), len(self._places)
            order = self._places[torch.randperm(count, generator=rng)]
            shuffled = torch.rand(count // self.context.batch_size, generator=rng)
            batches = batches_of(order, self._lengths, self.context.batch_size, shuffled)
            self._epoch, self._batches = epoch, batches
        return self._batches
