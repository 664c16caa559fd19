"""Reasons against a verdict besides accuracy: lost classes, unseen classes, weak exported forms.

Pure functions from parts of the record to reasons; `ConcernLimits` has the limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from doublure.core.findings import Tag
from doublure.reports import numbers
from doublure.reports.record import ExportedForm, SavedFinding, Summary
from doublure.reports.shown_images import Samples

Level = Literal["ok", "unknown", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class ConcernLimits:
    """Limits between verdicts. All are shares, except `images_per_class`.

    Args:
        keeps_well: at least this much of the teacher's accuracy is "ok".
        keeps_some: less than this much of it is "fail".
        agrees_some: without labels, less agreement on held-out images is "warn".
        widest_interval: a wider 95 % interval of the student's accuracy is "warn".
        form_agrees: an exported form that answers like its network less often is "warn".
        form_loses: an exported form that loses more accuracy than this is "warn".
        class_keeps: a class is lost where the student keeps less of its teacher's accuracy.
        class_known: a class the teacher itself knows less well is not counted as lost.
        classes_unseen: with a larger share of classes never named in the stream: "warn".
        images_per_class: fewer sampled or labelled images a class say nothing about a class.
    """

    keeps_well: float = 0.95
    keeps_some: float = 0.80
    agrees_some: float = 0.80
    widest_interval: float = 0.10
    form_agrees: float = 0.98
    form_loses: float = 0.02
    class_keeps: float = 0.5
    class_known: float = 0.5
    classes_unseen: float = 0.1
    images_per_class: int = 10


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason of the verdict in one sentence, its basis, and its level."""

    text: str
    tag: Tag
    level: Level = "ok"


def lost_classes(summary: Summary, limits: ConcernLimits) -> list[Reason]:
    """Return the classes that only the teacher predicts well, as one reason."""
    lost = [
        name
        for name, score in (summary.per_class or {}).items()
        if score.teacher is not None
        and score.student is not None
        and score.count >= limits.images_per_class
        and score.teacher >= limits.class_known
        and score.student < limits.class_keeps * score.teacher
    ]
    if not lost:
        return []
    classes = "1 class" if len(lost) == 1 else f"{len(lost)} classes"
    kept = numbers.percent(limits.class_keeps)
    text = f"On {classes} the student keeps less than {kept} of its teacher's accuracy"
    return [Reason(text=f"{text}: {_listed(lost)}.", tag="measured", level="warn")]


def unseen_classes(samples: Samples | None, labelled: bool, limits: ConcernLimits) -> list[Reason]:
    """Return a reason if the stream has few of the teacher's classes."""
    if samples is None or samples.histogram is None:
        return []
    histogram = samples.histogram
    if histogram.sum() < limits.images_per_class * len(histogram):
        return []
    unseen = int((histogram == 0).sum())
    if unseen <= limits.classes_unseen * len(histogram):
        return []
    text = (
        f"The teacher named {unseen} of its {len(histogram)} classes in none of "
        f"{numbers.count(int(histogram.sum()))} transfer images: the student was hardly shown them."
    )
    return [Reason(text=text, tag="proxy", level="ok" if labelled else "warn")]


def weak_forms(exports: Sequence[ExportedForm], limits: ConcernLimits) -> list[Reason]:
    """Return a reason for every exported form with a defect."""
    reasons = []
    for form in exports[1:]:
        reasons += _answers_otherwise(form, exports[0], limits)
        reasons += _quantized_for_nothing(form, exports[0])
    return reasons


def bad_findings(findings: Sequence[SavedFinding], labelled: bool) -> list[Reason]:
    """Return the findings that are not "ok"; measurements on labels outweigh warnings."""
    return [
        Reason(
            text=f"{finding.name}: {finding.summary}",
            tag=finding.tag,
            level="ok" if labelled and finding.verdict == "warn" else "warn",
        )
        for finding in findings
        if finding.verdict != "ok"
    ]


def _answers_otherwise(
    form: ExportedForm, reference: ExportedForm, limits: ConcernLimits
) -> list[Reason]:
    if form.accuracy is not None and reference.accuracy is not None:
        change = form.accuracy - reference.accuracy
        if -change <= limits.form_loses:
            return []
        text = f"Exported as {form.form}, the student's accuracy changes by "
        return [Reason(text=f"{text}{numbers.points(change)}.", tag="measured", level="warn")]
    if form.agreement is None or form.agreement >= limits.form_agrees:
        return []
    text = f"Exported as {form.form}, the student gives the same answer on only "
    return [Reason(text=f"{text}{numbers.percent(form.agreement)}.", tag="proxy", level="warn")]


def _quantized_for_nothing(form: ExportedForm, reference: ExportedForm) -> list[Reason]:
    if form.quantize_nodes is None:
        return []
    if form.quantize_nodes == 0:
        text = f"{form.form} is quantized in name only: it holds no quantize node."
        return [Reason(text=text, tag="measured", level="warn")]
    reasons = []
    if form.bytes and reference.bytes and form.bytes >= reference.bytes:
        text = f"{form.form} is no smaller than the float network."
        reasons.append(Reason(text=text, tag="measured", level="warn"))
    ours, theirs = form.latency_ms, reference.latency_ms
    if ours is not None and theirs is not None and ours >= theirs:
        text = f"{form.form} is no faster than the float network on this machine."
        reasons.append(Reason(text=text, tag="measured"))
    return reasons


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
