"""What can be said of a student that segments: scores where there are label maps, agreement.

Agreement is the share of pixels to which student and teacher give the same class, on transfer
images that the student never saw: held out of a set, or of a disjoint range of seeds. A generator
that played against the student has none of these, and the two are compared on a fixed set of shader
images.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from doublure.core.protocols import OptimisedSource, Source, parts_of
from doublure.core.seeding import child_seed, from_seed
from doublure.engine.distill import stream_context
from doublure.engine.recipe import Stage
from doublure.engine.run_folder import write_whole
from doublure.engine.task import FinishedRun
from doublure.exports.measure import count_flops
from doublure.nets.network import Network, freeze
from doublure.reports.picture_rows import PICTURE_ROWS, picture_rows_bytes
from doublure.sources.matched import Matched
from doublure.sources.scenes import Scenes
from doublure.sources.shaders import Shaders
from doublure.tasks.segmentation.evaluation import evaluate_scenes
from doublure.tasks.segmentation.pictures import draw_rows
from doublure.tasks.segmentation.recipes import shown
from doublure.tasks.segmentation.scores import agreement

_HELD_OUT, _AT_ONCE = 64, 8
_FIXED_SEED = 0


def summarize_scenes(run: FinishedRun) -> dict[str, Any]:
    """Return the part of a summary that depends on the task."""
    data, student, teacher = run.evaluation_data, run.student, run.teacher
    told: dict[str, Any] = {"class_names": student.contract.names, "score_count": None}
    told |= {"warnings": [], "scores_per_class": None}
    per_class: dict[str, dict[str, float]] = {}
    for role, network in (("teacher", teacher), ("student", student)):
        told |= {f"{role}_accuracy": None, f"{role}_scores": None}
        told[f"{role}_flops"] = None if network is None else count_flops(network)
        if network is not None and data is not None:
            found = evaluate_scenes(network, data)
            told[f"{role}_scores"] = {name: s.value for name, s in found.scores.items()}
            told["score_count"] = found.count
            for name, score in found.per_class.items():
                per_class.setdefault(name, {})[role] = score.iou
    if data is not None:
        told["scores_per_class"] = per_class
        roles = {"teacher": teacher, "student": student}
        columns, images = draw_rows(
            {role: net for role, net in roles.items() if net is not None}, data
        )
        write_whole(run.folder.file(PICTURE_ROWS), picture_rows_bytes(columns, images))
    told |= {"agreement": None, "agreement_count": None, "agreement_on": None}
    if teacher is not None:
        source, seed, name = _judging(run.recipe.stages[-1], run.recipe.seed, student)
        found_agreement = agreement(_answers(source, seed, teacher, student, run.recipe.stages[-1]))
        told |= {
            "agreement": found_agreement.value,
            "agreement_count": found_agreement.count,
            "agreement_on": name,
        }
    return told


def scored(summary: Mapping[str, Any], role: str) -> str:
    """Return how a network of a summary scored, for the terminal."""
    scores = summary[f"{role}_scores"]
    if scores is None:
        return "not scored"
    return f"mean IoU {scores['mean_iou']:.1%}, pixel accuracy {scores['pixel_accuracy']:.1%}"


def _judging(stage: Stage, seed: int, student: Network) -> tuple[Source, int, str]:
    """Return the source of the images to compare on, its seed, and its name for the report."""
    parts = [*parts_of(stage.source)]
    fixed = shown(Matched(source=Shaders()), student.contract)
    if any(isinstance(part, OptimisedSource) for part in parts):
        why = "none of what was shown could be held out"
        return fixed, _FIXED_SEED, f"pixels of shader images of a fixed set; {why}"
    if any(getattr(part, "held_out", None) == 0 for part in parts):
        why = "nothing of the transfer set was held out"
        return fixed, _FIXED_SEED, f"pixels of shader images of a fixed set; {why}"
    if any(isinstance(part, Scenes) for part in parts):
        return stage.source, seed, "pixels of images of the transfer set kept apart by their hash"
    return stage.source, seed, "pixels of images from a disjoint range of seeds, as fed"


@torch.no_grad()
def _answers(
    source: Source, seed: int, teacher: Network, student: Network, stage: Stage
) -> Iterator[tuple[Tensor, Tensor]]:
    settings = dataclasses.replace(stage.fit, batch_size=_AT_ONCE, steps=_HELD_OUT // _AT_ONCE)
    context = stream_context(student.contract, student, settings, split="held_out")
    asked, asks = freeze(student), freeze(teacher)
    stream = source.open(context, asks, from_seed(child_seed(seed, "held_out")))
    for step in range(context.steps):
        batch = stream.draw(step, student)
        yield asked(batch.views["student"]), asks(batch.views["teacher"])
