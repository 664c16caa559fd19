"""What can be said of a finished run, and how each figure is known.

Accuracy is measured, and only on labelled data that were handed over for it. Without them there is
agreement: the share of held-out transfer images, never shown to the student, that student and
teacher call the same; a proxy. The files written here are what the report is made of.
"""

import dataclasses
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from understudy.audits.calibration import committed
from understudy.audits.evaluation import Evaluation, evaluate
from understudy.audits.search_path import FollowedSearch, follow_search
from understudy.audits.transfer_set import TransferSetScorer
from understudy.catalogue import METHODS, kind_of
from understudy.data.datasets import Dataset, Part
from understudy.data.parallel_text import ParallelText, place_of
from understudy.exports.manifest import run_manifest
from understudy.exports.measure import count_flops
from understudy.fit import Outcome
from understudy.nets.network import Network, count_parameters, freeze
from understudy.nets.taps import device_of
from understudy.objectives.soft_targets import SoftTargets
from understudy.objectives.weighted import AnyObjective, Weighted
from understudy.protocols import (
    Batch,
    Finding,
    OptimisedSource,
    Source,
    TextContract,
    innermost,
)
from understudy.recipe import Recipe, Stage
from understudy.reports.page import write_report
from understudy.reports.shown_images import SEARCH_PATH, SearchRecord
from understudy.run_folder import SUMMARY, RunFolder, write_json, write_whole
from understudy.seeding import child_seed, from_seed
from understudy.sources.lcw import Lcw
from understudy.sources.matched import Matched
from understudy.sources.rehearsed import Rehearsed
from understudy.sources.sentences import Sentences
from understudy.sources.shaders import Shaders
from understudy.sources.surrogate import Surrogate
from understudy.spine import site_of
from understudy.tasks.classification import Classification
from understudy.text_summary import summarize_translation

# At 2 048 images the standard error of a share is at most 1.1 points.
_HELD_OUT = 2048
_SAMPLES = 48
_SCORED = 1024
# Of the fixed shader set, the same for all runs.
_FIXED_SEED = 0


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What teacher and student said about transfer images, most often held out, as fed."""

    images: Tensor
    teacher: Tensor
    student: Tensor
    on: str


def summarize(
    recipe: Recipe,
    folder: RunFolder,
    outcomes: Sequence[Outcome],
    teacher: Network[Any] | None,
    student: Network[Any],
    judges: Dataset | ParallelText | None,
    *,
    audit: bool,
    compared: Sequence[str] = (),
    last: Batch | None = None,
) -> dict[str, Any]:
    """Judge the student, write what was found into the run's folder, and return the summary.

    Args:
        judges: labelled data to score on.
        compared: what the objectives told before the first step.
        last: what the student was shown last; None where this call only found it trained.
        audit: whether the transfer set is scored, too, and a search for images followed.
    """
    final, outcome = recipe.stages[-1], outcomes[-1]
    seconds = sum(part.seconds for part in outcomes)
    summary: dict[str, Any] = {
        "verb": recipe.verb,
        "method": recipe.method,
        "paper": next((e.card.paper for e in METHODS if e.name == recipe.method), None),
        "teacher_reference": None if recipe.teacher is None else recipe.teacher.ref,
        "student_reference": recipe.student.ref,
        "steps": sum(part.steps for part in outcomes),
        "batch_size": final.fit.batch_size,
        "seconds": seconds,
        "images_per_second": sum(part.images for part in outcomes) / max(seconds, 1e-9),
        "final_terms": outcome.terms,
        "seed": recipe.seed,
        "compared": list(compared),
        "warnings": _warnings(outcomes),
    }
    for role, network in (("teacher", teacher), ("student", student)):
        summary[f"{role}_parameters"] = None if network is None else count_parameters(network)
    if isinstance(student.contract, TextContract):
        assert not isinstance(judges, Dataset)
        summary |= summarize_translation(final, recipe.seed, teacher, student, judges)
    else:
        assert not isinstance(judges, ParallelText)
        summary |= _summarize_images(
            final,
            recipe.seed,
            folder,
            teacher,
            student,
            judges,
            own_classes=recipe.own_classes,
            last=last,
            audit=audit,
        )
    write_json(folder.file("manifest.json"), _manifest(recipe, student))
    write_json(folder.file(SUMMARY), summary)
    write_report(folder.path)
    return summary


def _summarize_images(
    stage: Stage,
    seed: int,
    folder: RunFolder,
    teacher: Network | None,
    student: Network,
    judges: Dataset | None,
    *,
    own_classes: bool,
    last: Batch | None,
    audit: bool,
) -> dict[str, Any]:
    """Return the part of a summary that depends on the task; write what the student was shown."""
    told: dict[str, Any] = {"class_names": student.contract.names}
    for role, network in (("teacher", teacher), ("student", student)):
        told[f"{role}_flops"] = None if network is None else count_flops(network)
    if own_classes:
        teacher = None  # whose answers to these images mean something else
    told |= _accuracies(judges, teacher, student)
    rehearses = True
    if teacher is not None and teacher.contract.classes < student.contract.classes:
        told |= _old_and_new(judges, teacher.contract.classes, student, told["teacher_accuracy"])
        rehearses = isinstance(stage.source, Rehearsed)
    if teacher is None or not rehearses:
        return told | {"agreement": None, "agreement_count": None, "agreement_on": None}
    held_out = answer_held_out(stage, seed, teacher, student)
    score = Classification().agreement([(held_out.student, held_out.teacher)])
    # A game with the student cannot be drawn from when it is over, and so not be scored: what
    # can be looked at is its last batch.
    optimised = isinstance(innermost(stage.source), OptimisedSource)
    shown = answer_shown(last, student) if optimised else held_out
    if shown is not None:
        write_whole(folder.file("samples.npz"), _samples(shown))
    if audit and not optimised:
        found = score_stage(stage, teacher, seed)
        write_json(folder.file("findings.json"), [finding_json(found)])
    if audit:
        rng = from_seed(child_seed(seed, "search_path"))
        followed = follow_search(innermost(stage.source), teacher, student, rng)
        if followed is not None:
            write_whole(folder.file(SEARCH_PATH), _archive(**vars(search_record(followed))))
    return told | {
        "agreement": score.value,
        "agreement_count": score.count,
        "agreement_on": held_out.on,
    }


def score_stage(stage: Stage, teacher: Network, seed: int) -> Finding:
    """Return the transfer-set score of what a stage showed."""
    scorer = TransferSetScorer(
        teacher, temperature=temperature_of(stage.objective), calibration=committed()
    )
    name = type(innermost(stage.source)).__name__.lower()
    return scorer.score(stage.source, name=name, count=_SCORED, seed=seed).to_finding()


def temperature_of(objective: AnyObjective) -> float:
    """Return the temperature of the soft targets among the objectives; 1 where there are none."""
    if isinstance(objective, SoftTargets):
        return objective.temperature
    if isinstance(objective, Weighted):
        return max((temperature_of(term) for _, term in objective.terms), default=1.0)
    return 1.0


def answer_held_out(
    stage: Stage, seed: int, teacher: Network, student: Network, count: int = _HELD_OUT
) -> HeldOut:
    """Return both networks' answers on images the student never saw.

    They are held out of what the stage shows; for images found by optimisation they are a fixed
    set of shader images at the contract's mean and deviation.
    """
    source, seed = _judging(stage.source, seed)
    settings = dataclasses.replace(stage.fit, batch_size=min(256, count))
    steps = -(-count // settings.batch_size)
    site = site_of(student.contract, student, settings, split="held_out")
    rng = from_seed(child_seed(seed, "held_out"))
    asked = freeze(teacher)
    stream = source.open(dataclasses.replace(site, steps=steps), asked, rng)
    images, answers = [], []
    for step in range(steps):
        batch = stream.draw(step, student)
        with torch.no_grad():
            answers.append((asked(batch.views["teacher"]), student.eval()(batch.views["student"])))
        images.append(batch.images[: _SAMPLES if step == 0 else 0])
    teachers, students = zip(*answers, strict=True)
    return HeldOut(
        images=torch.cat(images),
        teacher=torch.cat(teachers),
        student=torch.cat(students),
        on=_held_out_name(stage),
    )


def answer_shown(batch: Batch | None, student: Network) -> HeldOut | None:
    """Return both networks' answers on images that were trained on; None where there are none."""
    if batch is None or batch.teacher is None or not isinstance(batch.teacher.output, Tensor):
        return None
    with torch.no_grad():
        answer = student.eval()(batch.images)
    return HeldOut(
        images=batch.images[:_SAMPLES],
        teacher=batch.teacher.output,
        student=answer,
        on="the last batch that was trained on",
    )


def _manifest(recipe: Recipe, student: Network[Any]) -> dict[str, Any]:
    references = [part for part in (recipe.teacher, recipe.student) if part is not None]
    named = [name for part in references for name in (part.ref, part.weights)]
    for base in (innermost(stage.source) for stage in recipe.stages):
        named += [base.data] if isinstance(base, Surrogate) else []
        named += [base.generator] if isinstance(base, Lcw) else []
        named += [place_of(base.data)] if isinstance(base, Sentences) else []
    return run_manifest(
        seeds={"run": recipe.seed},
        inputs=[name for name in (*named, recipe.eval) if name is not None],
        device=device_of(student),
        command=sys.argv,
    )


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return what findings.json holds of a finding; its pictures stay behind."""
    told = {item.name: getattr(finding, item.name) for item in dataclasses.fields(finding)}
    return {name: value for name, value in told.items() if name != "pictures"}


def _judging(source: Source, seed: int) -> tuple[Source, int]:
    """Return the source of the held-out images, and its seed."""
    if isinstance(innermost(source), OptimisedSource):
        return Matched(source=Shaders()), _FIXED_SEED
    return source, seed


def _warnings(outcomes: Sequence[Outcome]) -> list[str]:
    restarts = [part.terms.get("facts", {}).get("generator_restarts", 0) for part in outcomes]
    if not any(restarts):
        return []
    return ["The generator collapsed while the student learnt, and was started afresh."]


def _held_out_name(stage: Stage) -> str:
    source = innermost(stage.source)
    if isinstance(source, OptimisedSource):
        return "shader images of a fixed set; none of what was shown could be held out"
    if isinstance(source, Surrogate):
        return "images of the transfer set kept apart by their hash, as fed"
    name = kind_of(type(source)) or type(source).__name__
    return f"images of the source {name}, from a disjoint range of seeds, as fed"


def _accuracies(
    judges: Dataset | None, teacher: Network | None, student: Network
) -> dict[str, Any]:
    none = {f"{role}_{what}": None for role in ("teacher", "student") for what in _SCORES}
    if judges is None:
        return {**none, "accuracy_count": None, "per_class": None}
    scores = {"student": evaluate(student, judges)}
    if teacher is not None:
        known = _of_classes(judges, 0, teacher.contract.classes)
        if len(known) > 0:
            scores["teacher"] = evaluate(teacher, known)
    figures = {
        f"{role}_{what}": getattr(score, what) for role, score in scores.items() for what in _SCORES
    }
    return {
        **none,
        **figures,
        "accuracy_count": scores["student"].count,
        "per_class": _per_class(scores),
    }


_SCORES = ("accuracy", "correct", "calibration_error")


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


def _of_classes(judges: Dataset, first: int, end: int) -> Dataset:
    """Return the images of the classes from `first` to before `end`."""
    labels = judges.labels
    assert labels is not None  # demanded when they were opened
    places = ((labels >= first) & (labels < end)).nonzero()[:, 0]
    return judges if len(places) == len(judges) else Part(whole=judges, places=places)


def _old_and_new(
    judges: Dataset | None, num_old: int, student: Network, before: float | None
) -> dict[str, Any]:
    """Return the student's accuracy on old and on new classes, of all it could have answered.

    Args:
        before: the old network's accuracy on the old ones.
    """
    whole = student.contract.classes
    found: dict[str, Any] = {"new_classes": whole - num_old, "forgetting": None}
    for name, (first, end) in {"old": (0, num_old), "new": (num_old, whole)}.items():
        part = None if judges is None else _of_classes(judges, first, end)
        score = None if part is None or len(part) == 0 else evaluate(student, part)
        for what in ("accuracy", "correct", "count"):
            found[f"{name}_{what}"] = None if score is None else getattr(score, what)
    if before is not None and found["old_accuracy"] is not None:
        found["forgetting"] = before - found["old_accuracy"]
    return found


def _samples(held_out: HeldOut) -> bytes:
    shown = len(held_out.images)
    # A student that learned new classes knows more of them than its teacher.
    more = held_out.student.shape[1] - held_out.teacher.shape[1]
    classes = held_out.student.shape[1]
    return _archive(
        images=_pixels(held_out.images),
        teacher=F.pad(held_out.teacher[:shown].softmax(-1), (0, more)).float().cpu().numpy(),
        student=held_out.student[:shown].softmax(-1).float().cpu().numpy(),
        histogram=held_out.teacher.argmax(-1).bincount(minlength=classes).cpu().numpy(),
        histogram_count=np.int64(len(held_out.teacher)),
    )


def search_record(followed: FollowedSearch) -> SearchRecord:
    """Return what a report, or a picture, shows of a search."""
    path = followed.path
    return SearchRecord(
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
