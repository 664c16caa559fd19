"""Sequence-level distillation: the teacher's own translations in place of the corpus.

For a sentence x the target becomes the teacher's beam output, an approximation of the mode of
p(y | x); cross-entropy with it is the sequence-level objective of the paper. Each sentence is
translated at its first use; translations are stored, also in checkpoints.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive, share
from doublure.core.protocols import Batch, Source, Stream, StreamContext
from doublure.core.seeding import child
from doublure.nets.network import Network
from doublure.tasks.translation.contract import PAD
from doublure.tasks.translation.decoding import beam_search, translate
from doublure.tasks.translation.sentences import text_batch

CARD = Card(
    paper="Kim, Rush: Sequence-Level Knowledge Distillation, arXiv:1606.07947",
    needs=("logits",),
)


@dataclass(frozen=True, kw_only=True)
class SequenceLevel:
    """Source: another source's sentences, some batches translated by the teacher.

    Args:
        source: source of the sentences.
        share: share of the batches that the teacher translates.
        beams: width of its beam search; 1 is greedy decoding.
    """

    source: Source
    share: float = 1.0
    beams: int = 5

    def __post_init__(self) -> None:
        share("share", self.share)
        positive("beams", self.beams)

    def open(
        self, context: StreamContext[Any], teacher: nn.Module | None, rng: torch.Generator
    ) -> "SequenceLevelStream":
        if self.share > 0 and not isinstance(teacher, Network):
            raise ValueError("sequence-level distillation needs a teacher that translates")
        inner = self.source.open(context, teacher, child(rng, "source"))
        return SequenceLevelStream(
            self, context, teacher, inner, child(rng, "taught", context.rank)
        )


class SequenceLevelStream:
    """Stream of the inner sentences, or of the teacher's translations.

    `_kept` has a row for each sentence so far, all `PAD` before it is translated.
    """

    def __init__(
        self,
        settings: SequenceLevel,
        context: StreamContext[Any],
        teacher: nn.Module | None,
        inner: Stream,
        rng: torch.Generator,
    ) -> None:
        self.inner = inner
        self._settings, self._context, self._teacher, self._rng = settings, context, teacher, rng
        self._kept = torch.full((0, context.contract.longest), PAD, dtype=torch.int32)

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch = self.inner.draw(step, student)
        if torch.rand((), generator=child(self._rng, step)).item() >= self._settings.share:
            return batch
        assert batch.index is not None
        source = batch.views["teacher"]["source"]
        made = self._translations(batch.index.cpu(), source).to(source.device)
        return text_batch(source, made, index=batch.index, metrics=batch.metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "kept": self._kept.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self._kept = state["kept"].clone()

    def _translations(self, index: Tensor, source: Tensor) -> Tensor:
        missing = int(index.max()) + 1 - len(self._kept)
        if missing > 0:
            empty = torch.full((missing, self._kept.shape[1]), PAD, dtype=torch.int32)
            self._kept = torch.cat([self._kept, empty])
        new = self._kept[index, 0] == PAD
        if new.any():
            asked = source[new.to(source.device)]
            made = self._ask(asked).cpu().int()
            rows = torch.full((len(made), self._kept.shape[1]), PAD, dtype=torch.int32)
            rows[:, : made.shape[1]] = made
            self._kept[index[new]] = rows
        kept = self._kept[index].long()
        return kept[:, : int((kept != PAD).sum(1).max())]

    def _ask(self, source: Tensor) -> Tensor:
        assert isinstance(self._teacher, Network)
        longest = self._context.contract.longest
        if self._settings.beams == 1:
            return translate(self._teacher, source, longest)
        return beam_search(self._teacher, source, longest, self._settings.beams)
