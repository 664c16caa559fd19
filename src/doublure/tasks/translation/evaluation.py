"""Evaluation of a translator against references, always in float32."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from doublure.core.findings import Score
from doublure.core.protocols import Batch
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze
from doublure.nets.precision import full_float32
from doublure.tasks.translation.contract import PAD, TextContract
from doublure.tasks.translation.decoding import beam_search, prefix_of, translate
from doublure.tasks.translation.parallel_text import (
    ParallelText,
    by_length,
    padded,
    source_tokens,
    target_tokens,
)
from doublure.tasks.translation.scores import Translation, TranslatorOutputs


@dataclass(frozen=True, kw_only=True)
class TranslationEvaluation:
    """The scores of a network.

    Args:
        scores: bleu in [0, 100] over the corpus; token_accuracy and nll (nats) over tokens.
        count: number of sentences.
        translations: the network's, in the order of the data.
        seconds: wall time of translating and scoring.
    """

    scores: Mapping[str, Score]
    count: int
    translations: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the output of `evaluate --json`."""
        scores = {name: score.value for name, score in self.scores.items()}
        return {"scores": scores, "signatures": self.signatures, "count": self.count}

    def lines(self) -> list[str]:
        """Return the output of `evaluate`."""
        units = {name: "sentences" if name == "bleu" else "tokens" for name in self.scores}
        return [
            f"{name:15}{score.value:8.4g}  on {score.count:,} {units[name]}  {score.signature}"
            for name, score in self.scores.items()
        ]

    def table(self) -> None:
        """None: the scores are all there is."""

    @property
    def signatures(self) -> dict[str, str]:
        """Signature of the score's library, if it has one."""
        return {name: score.signature for name, score in self.scores.items() if score.signature}


def evaluate_translator(
    model: Network[TextContract],
    text: ParallelText,
    *,
    batch_size: int = 64,
    beams: int = 1,
    device: torch.device | str | None = None,
) -> TranslationEvaluation:
    """Return the evaluation of `model` on `text`, in float32 and eval mode; the model is unchanged.

    Args:
        beams: width of the search; 1 takes the likeliest next token each time.
        device: device of the computation; None for the model's.
    """
    where = device_of(model) if device is None else torch.device(device)
    network = freeze(model).to(where, torch.float32)
    start = time.perf_counter()
    made: dict[int, str] = {}
    with full_float32(where):
        scores = Translation().score(
            _answers(network, model.contract, text, batch_size, beams, where, made)
        )
    return TranslationEvaluation(
        scores=scores,
        count=len(text),
        translations=tuple(made[place] for place in range(len(text))),
        seconds=time.perf_counter() - start,
    )


def _answers(
    network: nn.Module,
    contract: TextContract,
    text: ParallelText,
    batch_size: int,
    beams: int,
    device: torch.device,
    made: dict[int, str],
) -> Iterator[tuple[TranslatorOutputs, Batch]]:
    sources, targets = source_tokens(text.sources, contract), target_tokens(text.targets, contract)
    for places in by_length(sources, batch_size):
        source, target = (_taken(rows, places, device) for rows in (sources, targets))
        with torch.no_grad():
            logits = network({"source": source, "prefix": prefix_of(target)})
        assert isinstance(network, Network)
        if beams == 1:
            tokens = translate(network, source, contract.longest)
        else:
            tokens = beam_search(network, source, contract.longest, beams)
        answers = tuple(contract.text(row) for row in tokens.tolist())
        made.update(zip(places, answers, strict=True))
        reference = tuple(text.targets[place] for place in places)
        batch = Batch(views={"reference": reference}, labels=target, mask=target != PAD)
        yield TranslatorOutputs(logits=logits, text=answers), batch


def _taken(
    rows: Sequence[Sequence[int]], places: Sequence[int], device: torch.device
) -> torch.Tensor:
    return padded([rows[place] for place in places]).to(device)
