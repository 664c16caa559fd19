"""The verdict on a RUN in one sentence with reasons; a pure function of the record.

Levels: "ok" (use it), "warn" (use it with care), "fail" (do not use it), "unknown" (insufficient
data). Accuracy on labelled images decides; without it no agreement gives "ok", because agreement on
a transfer set is not accuracy. `ConcernLimits` has the limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from doublure.core.findings import Tag
from doublure.core.statistics import wilson_interval
from doublure.reports import concerns, numbers
from doublure.reports.concerns import ConcernLimits, Level, Reason
from doublure.reports.record import RunRecord, Summary

CONFIDENCE = 0.95
_SEVERITY: tuple[Level, ...] = ("ok", "unknown", "warn", "fail")
_LABELS: dict[Level, str] = {
    "ok": "Good to use",
    "unknown": "Accuracy unknown",
    "warn": "Use with care",
    "fail": "Do not use",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict at the top of the page.

    Args:
        label: the level in two or three words.
        tag: basis of the headline; None if it makes no claim.
    """

    level: Level
    label: str
    headline: str
    tag: Tag | None
    reasons: tuple[Reason, ...]


def judge(record: RunRecord, limits: ConcernLimits) -> Verdict:
    """Return the verdict on a RUN."""
    summary = record.summary
    if summary is None:
        return Verdict(
            level="unknown",
            label="Not finished",
            headline="This run has written no summary: there is nothing to judge yet.",
            tag=None,
            reasons=(),
        )
    verdict = _first_verdict(record, summary, limits)
    labelled = summary.student_accuracy is not None
    found = (
        *concerns.lost_classes(summary, limits),
        *concerns.unseen_classes(record.samples, labelled, limits),
        *concerns.weak_forms(record.exports or (), limits),
        *concerns.bad_findings(record.findings or (), labelled),
    )
    reasons = (*verdict.reasons, *found)
    level = max((verdict.level, *(reason.level for reason in found)), key=_SEVERITY.index)
    return Verdict(
        level=level,
        label=_label(verdict, level),
        headline=verdict.headline,
        tag=verdict.tag,
        reasons=reasons,
    )


def _label(verdict: Verdict, level: Level) -> str:
    if level == verdict.level:
        return verdict.label
    # "unknown" stays, independent of the concerns.
    return f"{verdict.label}: use with care" if verdict.level == "unknown" else _LABELS[level]


def chance(summary: Summary, num_classes: int | None) -> float | None:
    """Return the accuracy of always predicting the most frequent class."""
    if summary.per_class:
        counts = [score.count for score in summary.per_class.values()]
        if sum(counts):
            return max(counts) / sum(counts)
    return 1 / num_classes if num_classes else None


def accuracy_interval(accuracy: float, correct: int | None, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of an accuracy."""
    low, high = wilson_interval(
        round(accuracy * count) if correct is None else correct, count, CONFIDENCE
    )
    return low, high


def _first_verdict(record: RunRecord, summary: Summary, limits: ConcernLimits) -> Verdict:
    if summary.student_accuracy is None:
        if summary.student_scores:
            return _other_scores(summary)
        return _without_labels(record, summary, limits)
    if summary.learned_classes:
        return _widened(summary, limits)
    guess = chance(summary, record.num_classes)
    if summary.teacher_accuracy is None:
        return _alone(summary, guess)
    return _beside_teacher(summary, summary.teacher_accuracy, guess, limits)


def _beside_teacher(
    summary: Summary, teacher: float, guess: float | None, limits: ConcernLimits
) -> Verdict:
    student = summary.student_accuracy or 0.0
    reasons = [_accuracies(summary, "Student"), *_width(summary, limits)]
    if guess is not None and teacher <= guess:
        headline = (
            f"The teacher itself is no better than guessing on {_labelled(summary)} "
            f"({numbers.percent(teacher)}; always naming one class gives "
            f"{numbers.percent(guess)}): check its mean, std and class order."
        )
        return _verdict("fail", headline, reasons)
    if _is_guessing(summary, guess):
        return _verdict("fail", _guessing(summary, guess), reasons)
    kept = student / teacher if teacher else 0.0
    if kept > 1:
        headline = f"The student is more accurate than its teacher on {_labelled(summary)}"
    elif kept == 1:
        headline = f"The student is as accurate as its teacher on {_labelled(summary)}"
    else:
        headline = (
            f"The student keeps {numbers.percent(kept)} of its teacher's accuracy "
            f"on {_labelled(summary)}"
        )
    worst = max((_level(kept, limits), *(reason.level for reason in reasons)), key=_SEVERITY.index)
    return _verdict(worst, f"{headline}{_at_size(summary)}.", reasons)


def _widened(summary: Summary, limits: ConcernLimits) -> Verdict:
    """Return the verdict on a network that learned new classes: accuracy on old and new ones."""
    reasons = [
        _part(name, accuracy, correct, count)
        for name, accuracy, correct, count in (
            ("Old", summary.old_accuracy, summary.old_correct, summary.old_count),
            ("New", summary.new_accuracy, summary.new_correct, summary.new_count),
        )
        if accuracy is not None
    ]
    old, new, before = summary.old_accuracy, summary.new_accuracy, summary.teacher_accuracy
    if old is None:
        headline = (
            f"It is right on {numbers.percent(new or 0.0)} of its new classes; no labelled image "
            "tells what it forgot of the old ones."
        )
        level: Level = "unknown"
    else:
        was = "" if before is None else f", where it was on {numbers.percent(before)}"
        learned = "no labelled image is of the new ones"
        if new is not None:
            learned = f"of the new ones on {numbers.percent(new)}"
        headline = f"It is right on {numbers.percent(old)} of its old classes{was}; {learned}."
        level = _level(old / before, limits) if before else "unknown"
    if new is not None and summary.new_classes and new <= 1 / summary.new_classes:
        level = "fail"
        headline += f" Guessing among those {summary.new_classes} would do as well."
    return _verdict(level, headline, reasons)


def _level(kept: float, limits: ConcernLimits) -> Level:
    """Return the level for a share of kept accuracy."""
    if kept < limits.keeps_some:
        return "fail"
    return "ok" if kept >= limits.keeps_well else "warn"


def _part(name: str, accuracy: float, correct: int | None, count: int | None) -> Reason:
    text = f"{name} classes {numbers.percent(accuracy)}"
    if count:
        low, high = accuracy_interval(accuracy, correct, count)
        text += f" (95 % interval {numbers.interval(low, high)}) on "
        text += numbers.plural(count, "labelled image")
    return Reason(text=f"{text}, of all it could have answered.", tag="measured")


def _alone(summary: Summary, guess: float | None) -> Verdict:
    """Return the verdict on a network without a teacher: a score without a reference."""
    if _is_guessing(summary, guess):
        return _verdict("fail", _guessing(summary, guess), [_accuracies(summary, "Network")])
    student = numbers.percent(summary.student_accuracy or 0.0)
    return Verdict(
        level="unknown",
        label="Measured, without a yardstick",
        headline=f"The network is right on {student} of {_labelled(summary)}.",
        tag="measured",
        reasons=(_accuracies(summary, "Network"),),
    )


def _without_labels(record: RunRecord, summary: Summary, limits: ConcernLimits) -> Verdict:
    words = summary.words
    unknown = f"No {words.judged} were given: {words.quality} is unknown."
    if summary.agreement is None:
        return Verdict(level="unknown", label=words.unknown, headline=unknown, tag=None, reasons=())
    shown = summary.compared_on
    if summary.agreement_count is not None:
        shown = f"{numbers.count(summary.agreement_count)} {shown}"
    headline = (
        f"{unknown} The student agrees with its teacher on {numbers.percent(summary.agreement)} "
        f"of {shown} (a proxy: this is not {words.quality})."
    )
    level: Level = "unknown" if summary.agreement >= limits.agrees_some else "warn"
    if record.num_classes and summary.agreement <= 1 / record.num_classes:
        level = "fail"
    labels = {"unknown": words.unknown, "warn": f"{words.unknown}: use with care"}
    label = labels.get(level, _LABELS[level])
    reasons = [Reason(text=f"Size: {_size(summary)}.", tag="measured")] if _size(summary) else []
    return Verdict(level=level, label=label, headline=headline, tag="proxy", reasons=tuple(reasons))


def _other_scores(summary: Summary) -> Verdict:
    """Return the verdict for a task without accuracy: the scores of both networks."""
    teacher = summary.teacher_scores or {}
    reasons = [
        Reason(
            text=f"{name}: {numbers.plain(value)}"
            + (f", teacher {numbers.plain(teacher[name])}." if name in teacher else "."),
            tag="measured",
        )
        for name, value in (summary.student_scores or {}).items()
    ]
    return Verdict(
        level="unknown",
        label="Measured",
        headline="The student was scored on labelled data; its task has no single accuracy.",
        tag="measured",
        reasons=tuple(reasons),
    )


def _verdict(level: Level, headline: str, reasons: Sequence[Reason]) -> Verdict:
    return Verdict(
        level=level,
        label=_LABELS[level],
        headline=headline,
        tag="measured",
        reasons=tuple(reasons),
    )


def _labelled(summary: Summary) -> str:
    if summary.accuracy_count is None:
        return "labelled images"
    return numbers.plural(summary.accuracy_count, "labelled image")


def _size(summary: Summary) -> str:
    if not summary.student_parameters or not summary.teacher_parameters:
        return ""
    share = numbers.share_of(summary.student_parameters, summary.teacher_parameters)
    if share == numbers.EQUAL:
        return "as many parameters as its teacher"
    return f"{share} the teacher's parameters"


def _at_size(summary: Summary) -> str:
    return f", with {_size(summary)}" if _size(summary) else ""


def _is_guessing(summary: Summary, guess: float | None) -> bool:
    """Return whether the student's interval includes the accuracy of a constant class."""
    if guess is None or summary.student_accuracy is None:
        return False
    low = summary.student_accuracy
    if summary.accuracy_count:
        low, _ = accuracy_interval(low, summary.student_correct, summary.accuracy_count)
    return low <= guess


def _guessing(summary: Summary, guess: float | None) -> str:
    return (
        f"The student cannot be told from guessing: "
        f"{numbers.percent(summary.student_accuracy or 0.0)} on {_labelled(summary)}, where always "
        f"naming one class gives {numbers.percent(guess or 0.0)}."
    )


def _accuracies(summary: Summary, who: str) -> Reason:
    parts = []
    for name, accuracy, correct in (
        (who, summary.student_accuracy, summary.student_correct),
        ("teacher", summary.teacher_accuracy, summary.teacher_correct),
    ):
        if accuracy is None:
            continue
        text = f"{name} {numbers.percent(accuracy)}"
        if summary.accuracy_count:
            low, high = accuracy_interval(accuracy, correct, summary.accuracy_count)
            text += f" (95 % interval {numbers.interval(low, high)})"
        parts.append(text)
    which = f" ({summary.accuracy_on})" if summary.accuracy_on else ""
    return Reason(text=f"{', '.join(parts)}, on {_labelled(summary)}{which}.", tag="measured")


def _width(summary: Summary, limits: ConcernLimits) -> list[Reason]:
    if not summary.accuracy_count or summary.student_accuracy is None:
        text = "Nobody wrote down how many images were labelled, so there is no interval."
        return [Reason(text=text, tag="measured", level="warn")]
    low, high = accuracy_interval(
        summary.student_accuracy, summary.student_correct, summary.accuracy_count
    )
    if high - low <= limits.widest_interval:
        return []
    text = (
        f"{numbers.plural(summary.accuracy_count, 'labelled image')} leave the student's accuracy "
        f"uncertain by {100 * (high - low):.0f} points: label more before relying on it."
    )
    return [Reason(text=text, tag="measured", level="warn")]
