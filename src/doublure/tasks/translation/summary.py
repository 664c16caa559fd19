"""The summary of a translator: scores if there are references, and agreement.

Agreement is the share of tokens on which student and teacher agree, after prefixes of held-out
sentences of the corpus, for every kind of training.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from doublure.core.protocols import StreamContext, innermost
from doublure.core.seeding import child_seed, from_seed
from doublure.engine.distill import stream_context
from doublure.engine.recipe import Stage
from doublure.engine.task import FinishedRun, unlearned_labels_warning
from doublure.nets.network import Network, freeze
from doublure.tasks.translation.contract import TextContract
from doublure.tasks.translation.evaluation import evaluate_translator
from doublure.tasks.translation.scores import Translation
from doublure.tasks.translation.sentences import Sentences

# About four thousand tokens: the standard error of a share is at most 0.8 points.
_HELD_OUT = 256
_AT_ONCE = 64


def summarize_translation(run: FinishedRun) -> dict[str, Any]:
    """Return the task's part of a summary."""
    stage, seed, evaluation_data = run.recipe.stages[-1], run.recipe.seed, run.evaluation_data
    teacher, student = run.teacher, run.student
    networks = {"teacher": teacher, "student": student}
    told: dict[str, Any] = {"score_count": None, "score_signatures": {}}
    told["warnings"] = unlearned_labels_warning(run.terms, student.contract.classes)
    for role, network in networks.items():
        told |= {f"{role}_accuracy": None, f"{role}_scores": None, f"{role}_flops": None}
        if network is not None and evaluation_data is not None:
            found = evaluate_translator(network, evaluation_data).to_json()
            told |= {f"{role}_scores": found["scores"], "score_count": found["count"]}
            told["score_signatures"] = found["signatures"]
    told |= {"agreement": None, "agreement_count": None, "agreement_on": None}
    source = innermost(stage.source)
    kept = not isinstance(source, Sentences) or source.held_out > 0
    if teacher is not None and kept:
        score = Translation().agreement(_held_out(stage, seed, teacher, student))
        told |= {
            "agreement": score.value,
            "agreement_count": score.count,
            "agreement_on": "tokens of held-out sentences, behind the corpus's prefixes",
        }
    return told


def scored(summary: Mapping[str, Any], role: str) -> str:
    """Return the scores of a network in a summary, for the terminal."""
    scores = summary[f"{role}_scores"] or {}
    told = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in scores.items()]
    return ", ".join(told) or "not scored"


@torch.no_grad()
def _held_out(
    stage: Stage, seed: int, teacher: Network[TextContract], student: Network[TextContract]
) -> Iterator[tuple[Tensor, Tensor]]:
    settings = dataclasses.replace(stage.fit, batch_size=_AT_ONCE)
    # A source accepts any context and checks the contract itself.
    context: StreamContext[Any] = stream_context(
        student.contract, student, settings, split="held_out"
    )
    rng = from_seed(child_seed(seed, "held_out"))
    asked, asks = freeze(student), freeze(teacher)
    stream = innermost(stage.source).open(context, asks, rng)
    for step in range(_HELD_OUT // _AT_ONCE):
        batch = stream.draw(step, student)
        yield (
            asked(batch.views["student"])[batch.mask],
            asks(batch.views["teacher"])[batch.mask],
        )
