"""The summary of a student for classification, and of its transfer set.

It has accuracies and the agreement on held-out transfer images. It also writes the files for the
report's pictures.
"""

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from doublure.audits.calibration import committed
from doublure.audits.optimisation_path import FollowedOptimisation, follow_optimisation
from doublure.audits.transfer_set import COUNT, TransferSetScorer
from doublure.core.findings import Finding
from doublure.core.protocols import OptimisedSource, innermost, parts_of
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, Part
from doublure.engine.recipe import Stage
from doublure.engine.run_folder import write_json, write_whole
from doublure.engine.task import FinishedRun, unlearned_labels_warning
from doublure.exports.measure import Timing, count_flops, time_pair
from doublure.nets.network import Network
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.reports.shown_images import OPTIMISATION_PATH, OptimisationRecord
from doublure.sources.rehearsed import Rehearsed
from doublure.tasks.classification.evaluation import ClassAccuracy, Evaluation, evaluate
from doublure.tasks.classification.held_out import HeldOut, answer_held_out, answer_shown
from doublure.tasks.classification.scores import Classification

# Verbs whose networks are timed against the originals, and the seconds of each timing.
_TIMED = ("prune", "quantize")
_TIMING = Timing(seconds=2.0)
_SCORES = ("accuracy", "correct", "calibration_error")


def summarize_images(run: FinishedRun) -> dict[str, Any]:
    """Return the task's part of a summary, and write the student's transfer images."""
    recipe, folder, audit = run.recipe, run.folder, run.audit
    teacher, student, evaluation_data = run.teacher, run.student, run.evaluation_data
    stage, seed = recipe.stages[-1], recipe.seed
    classes = student.contract.classes
    told: dict[str, Any] = {
        "class_names": student.contract.names,
        "warnings": unlearned_labels_warning(run.terms, classes),
    }
    for role, network in (("teacher", teacher), ("student", student)):
        told[f"{role}_flops"] = None if network is None else count_flops(network)
    if recipe.own_label_space:
        teacher = None  # whose outputs have another meaning
    scores = _evaluated(evaluation_data, teacher, student)
    told |= _accuracies(scores)
    few = evaluation_data is not None and recipe.eval is None
    told["accuracy_on"] = "those of the few real images that judge" if few else None
    rehearses = True
    if teacher is not None and teacher.contract.classes < classes:
        told |= _old_and_new(evaluation_data, scores, teacher.contract.classes, classes)
        rehearses = isinstance(stage.source, Rehearsed)
    if teacher is None or not rehearses:
        return told | {"agreement": None, "agreement_count": None, "agreement_on": None}
    fewer = {} if run.compared is None else {"count": run.compared}
    held_out = answer_held_out(stage, seed, teacher, student, **fewer)
    score = Classification().agreement([(held_out.student, held_out.teacher)])
    # A generator trained against the student cannot be drawn from after the run, and so not be
    # scored: only its last batch is available.
    optimised = any(isinstance(part, OptimisedSource) for part in parts_of(stage.source))
    shown = answer_shown(run.last, student) if optimised else held_out
    if shown is not None:
        write_whole(folder.file("samples.npz"), _samples(shown))
    if audit and not optimised:
        found = score_stage(stage, teacher, seed)
        write_json(folder.file("findings.json"), [finding_json(found)])
    if audit and recipe.verb in _TIMED:
        told |= time_pair(teacher, student, held_out.images, _TIMING)
    if audit:
        rng = from_seed(child_seed(seed, "optimisation_path"))
        followed = follow_optimisation(innermost(stage.source), teacher, student, rng)
        if followed is not None:
            write_whole(
                folder.file(OPTIMISATION_PATH), _archive(**vars(optimisation_record(followed)))
            )
    on = held_out.on
    if held_out.distinct is not None and held_out.distinct < score.count:
        on = f"views of {held_out.distinct:,} {on}"
    return told | {
        "agreement": score.value,
        "agreement_count": score.count,
        "agreement_images": held_out.distinct,
        "agreement_on": on,
    }


def scored(summary: Mapping[str, Any], role: str) -> str:
    """Return the scores of a network in a summary, for the terminal."""
    accuracy = summary[f"{role}_accuracy"]
    if accuracy is None:
        return "accuracy not measured"
    low, high = summary[f"{role}_interval"]
    count = summary["accuracy_count"]
    if role == "teacher":  # which may have only a part of the classes
        count = summary.get("old_count", count)
    correct = f"{summary[f'{role}_correct']:,} of {count:,}"
    return f"accuracy {accuracy:.1%} ({correct}, 95 % interval {low:.1%} to {high:.1%})"


def score_stage(stage: Stage, teacher: Network, seed: int) -> Finding:
    """Return the score of a stage's transfer set."""
    scorer = TransferSetScorer(
        teacher, temperature=temperature_of(stage.objective), calibration=committed()
    )
    name = type(innermost(stage.source)).__name__.lower()
    return scorer.score(stage.source, name=name, count=COUNT, seed=seed).to_finding()


def temperature_of(objective: AnyObjective) -> float:
    """Return the temperature of the soft targets in an objective; 1 if there are none."""
    if isinstance(objective, SoftTargets):
        return objective.temperature
    if isinstance(objective, Weighted):
        return max((temperature_of(term) for _, term in objective.terms), default=1.0)
    return 1.0


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return a finding without its pictures, for findings.json."""
    told = {item.name: getattr(finding, item.name) for item in dataclasses.fields(finding)}
    return {name: value for name, value in told.items() if name != "pictures"}


def _evaluated(
    evaluation_data: Dataset | None, teacher: Network | None, student: Network
) -> dict[str, Evaluation]:
    """Return the scores of each network; a teacher with fewer classes is scored on those."""
    if evaluation_data is None:
        return {}
    scores = {"student": evaluate(student, evaluation_data)}
    if teacher is not None:
        known = _of_first_classes(evaluation_data, teacher.contract.classes)
        if len(known) > 0:
            scores["teacher"] = evaluate(teacher, known)
    return scores


def _of_first_classes(evaluation_data: Dataset, count: int) -> Dataset:
    labels = evaluation_data.labels
    assert labels is not None  # required when they were opened
    places = (labels < count).nonzero()[:, 0]
    return (
        evaluation_data
        if len(places) == len(evaluation_data)
        else Part(whole=evaluation_data, places=places)
    )


def _accuracies(scores: dict[str, Evaluation]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        f"{role}_{what}": getattr(scores.get(role), what, None)
        for role in ("teacher", "student")
        for what in _SCORES
    }
    for role in ("teacher", "student"):
        score = scores.get(role)
        figures[f"{role}_interval"] = None if score is None else list(score.interval())
    figures["accuracy_count"] = getattr(scores.get("student"), "count", None)
    figures["per_class"] = _per_class(scores) if scores else None
    return figures


def _per_class(scores: dict[str, Evaluation]) -> dict[str, Any]:
    return {
        name: {
            role: score.per_class[name].accuracy
            for role, score in scores.items()
            if name in score.per_class
        }
        | {"count": own.count}
        for name, own in scores["student"].per_class.items()
    }


def _old_and_new(
    evaluation_data: Dataset | None, scores: dict[str, Evaluation], num_old: int, classes: int
) -> dict[str, Any]:
    """Return the student's accuracy on old and on new classes, among all its classes.

    Forgetting is the old network's accuracy on the old classes minus the student's.
    """
    found: dict[str, Any] = {"new_classes": classes - num_old, "forgetting": None}
    by_class: dict[int, ClassAccuracy] = {}
    if evaluation_data is not None and evaluation_data.labels is not None:
        own = scores["student"].per_class.values()
        by_class = dict(zip(sorted(set(evaluation_data.labels.tolist())), own, strict=True))
    for name, there in {"old": range(num_old), "new": range(num_old, classes)}.items():
        part = [score for index, score in by_class.items() if index in there]
        correct, count = (sum(getattr(p, what) for p in part) for what in ("correct", "count"))
        measured = (correct / count, correct, count) if count else (None, None, None)
        for what, value in zip(("accuracy", "correct", "count"), measured, strict=True):
            found[f"{name}_{what}"] = value
    if "teacher" in scores and found["old_accuracy"] is not None:
        found["forgetting"] = scores["teacher"].accuracy - found["old_accuracy"]
    return found


def _samples(held_out: HeldOut) -> bytes:
    shown = len(held_out.images)
    # A student with new classes has more classes than its teacher.
    more = held_out.student.shape[1] - held_out.teacher.shape[1]
    classes = held_out.student.shape[1]
    return _archive(
        images=_pixels(held_out.images),
        teacher=F.pad(held_out.teacher[:shown].softmax(-1), (0, more)).float().cpu().numpy(),
        student=held_out.student[:shown].softmax(-1).float().cpu().numpy(),
        histogram=held_out.teacher.argmax(-1).bincount(minlength=classes).cpu().numpy(),
        histogram_count=np.int64(len(held_out.teacher)),
    )


def optimisation_record(followed: FollowedOptimisation) -> OptimisationRecord:
    """Return the path of an image optimisation, for a report or a picture."""
    path = followed.path
    return OptimisationRecord(
        images=np.stack([_pixels(images) for images in path.images]),
        iterations=np.array(path.iterations),
        named=followed.named.cpu().numpy(),
        sure=followed.sure.float().cpu().numpy(),
    )


def _pixels(images: Tensor) -> UInt8[np.ndarray, "images height width channels"]:
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _archive(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
