"""On-policy: in some batches the translations are samples of the current student.

With probability `share` a batch's targets are replaced by y ~ q(y | x), drawn token by token from
softmax(z / T) with dropout off and without gradient; teacher and student then predict every token
of y after its prefix. Other batches are those of the inner source. Prefixes and divergence are
independent choices; only the corpus with forward KL, and the student's own sentences with reverse
KL, minimise a divergence of whole sentences.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from doublure.core.cards import Card
from doublure.core.checks import positive, share
from doublure.core.protocols import Batch, Source, Stream, StreamContext
from doublure.core.seeding import child
from doublure.nets.network import Network, freeze
from doublure.tasks.translation.contract import OWN_SENTENCES
from doublure.tasks.translation.decoding import translate
from doublure.tasks.translation.sentences import text_batch

CARD = Card(
    paper="Agarwal et al.: On-Policy Distillation of Language Models: Learning from "
    "Self-Generated Mistakes, arXiv:2306.13649",
    needs=("logits",),
)


@dataclass(frozen=True, kw_only=True)
class OnPolicy:
    """Source: another source's sentences, some batches translated by the student.

    Args:
        source: source of the sentences.
        share: share of the batches that the student translates.
        temperature: temperature of the samples.
    """

    source: Source
    share: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        share("share", self.share)
        positive("temperature", self.temperature)

    def open(
        self, context: StreamContext[Any], teacher: nn.Module | None, rng: torch.Generator
    ) -> "OnPolicyStream":
        inner = self.source.open(context, teacher, child(rng, "source"))
        return OnPolicyStream(self, context, inner, child(rng, "own", context.rank))


class OnPolicyStream:
    """Stream of the inner sentences or the student's; the metric `OWN_SENTENCES` tells which."""

    def __init__(
        self, settings: OnPolicy, context: StreamContext[Any], inner: Stream, rng: torch.Generator
    ) -> None:
        self.inner = inner
        self._settings, self._context, self._rng = settings, context, rng

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch = self.inner.draw(step, student)
        rng = child(self._rng, step)
        own = torch.rand((), generator=rng).item() < self._settings.share
        metrics = {
            **batch.metrics,
            OWN_SENTENCES: torch.tensor(float(own), device=self._context.device),
        }
        source = batch.views["student"]["source"]
        if not own:
            assert batch.labels is not None
            return text_batch(source, batch.labels, index=batch.index, metrics=metrics)
        if student is None:
            raise ValueError("on-policy sentences are the student's; give a student, or share = 0")
        asked = freeze(student)
        assert isinstance(asked, Network)
        made = translate(
            asked,
            source,
            self._context.contract.longest,
            rng=rng,
            temperature=self._settings.temperature,
        )
        return text_batch(source, made, index=batch.index, metrics=metrics)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)
