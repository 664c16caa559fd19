"""The report's tables: rows, columns, number formats and tags.

Pure functions from parts of the record to rows of text; None without data, and no empty columns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from doublure.core.findings import Tag
from doublure.reports import numbers
from doublure.reports.facts import MISSING
from doublure.reports.record import Arm, ClassScore, ExportedForm, SavedFinding, Summary
from doublure.reports.verdict import accuracy_interval, chance

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Text of a cell.

    Args:
        bar: length of the bar below it, as a share of the column.
        detail: small text below it.
    """

    text: str
    bar: float | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns by title and tag (None: no numbers), and rows of cells."""

    columns: tuple[tuple[str, Tag | None], ...]
    rows: tuple[tuple[Cell, ...], ...]


def accuracy_table(summary: Summary, num_classes: int | None) -> Table | None:
    """Return teacher, student and guessing, each with its count, interval and calibration."""
    guess = chance(summary, num_classes)
    teacher, student = summary.teacher_calibration_error, summary.student_calibration_error
    known = [
        (arm, error)
        for arm, error in (
            (_scored(summary, "teacher", summary.teacher_count), teacher),
            (_scored(summary, "student", summary.accuracy_count), student),
        )
        if arm.accuracy is not None
    ]
    if not known:
        return None
    if guess is not None:
        known.append((_arm("Always the same class", guess, None, None), None))
    return _tabulate(
        known,
        ("", None, lambda row: row[0].name),
        ("Accuracy", "measured", lambda row: _or_missing(row[0].accuracy, numbers.percent)),
        ("Correct", "measured", lambda row: _correct(row[0])),
        ("95 % interval", "measured", lambda row: _interval(row[0])),
        ("Calibration error", "measured", lambda row: _or_missing(row[1], numbers.percent)),
    )


def old_and_new_table(summary: Summary) -> Table | None:
    """Return the accuracy on old and on new classes, before and after the training on new ones."""
    if not summary.learned_classes:
        return None
    rows = [
        (_arm(name, after, correct, count), before)
        for name, after, correct, count, before in (
            (
                "Old classes",
                summary.old_accuracy,
                summary.old_correct,
                summary.old_count,
                summary.teacher_accuracy,
            ),
            ("New classes", summary.new_accuracy, summary.new_correct, summary.new_count, None),
            (
                "All classes",
                summary.student_accuracy,
                summary.student_correct,
                summary.accuracy_count,
                None,
            ),
        )
        if after is not None
    ]
    return _tabulate(
        rows,
        ("", None, lambda row: row[0].name),
        ("Before", "measured", lambda row: _or_missing(row[1], numbers.percent)),
        ("After", "measured", lambda row: _or_missing(row[0].accuracy, numbers.percent)),
        ("ModelTransform", "measured", lambda row: _difference(row[0].accuracy, row[1])),
        ("Correct", "measured", lambda row: _correct(row[0])),
        ("95 % interval", "measured", lambda row: _interval(row[0])),
    )


def arms_table(arms: Sequence[Arm]) -> Table:
    """Return the compared transfer sets."""
    return _tabulate(
        arms,
        ("Transfer set", None, lambda arm: arm.name),
        ("Accuracy", "measured", lambda arm: _or_missing(arm.accuracy, numbers.percent)),
        ("Correct", "measured", _correct),
        ("95 % interval", "measured", _interval),
        ("Agreement", "proxy", lambda arm: _or_missing(arm.agreement, numbers.percent)),
        ("Time", "measured", lambda arm: _or_missing(arm.seconds, numbers.duration)),
    )


def class_table(per_class: Mapping[str, ClassScore]) -> Table:
    """Return every class with both accuracies, the largest loss first."""
    rows = sorted(
        per_class.items(), key=lambda row: (row[1].student or 0.0) - (row[1].teacher or 0.0)
    )
    return _tabulate(
        rows,
        ("Class", None, lambda row: row[0]),
        ("Teacher", "measured", lambda row: _or_missing(row[1].teacher, numbers.percent)),
        ("Student", "measured", lambda row: _or_missing(row[1].student, numbers.percent)),
        ("ModelTransform", "measured", lambda row: _change(row[1])),
        ("Images", "measured", lambda row: numbers.count(row[1].count)),
    )


def scores_table(summary: Summary) -> Table | None:
    """Return the scores of a task without accuracy."""
    teacher, student = summary.teacher_scores or {}, summary.student_scores or {}
    signatures = summary.score_signatures
    names = list(dict.fromkeys([*teacher, *student]))
    if not names:
        return None
    return _tabulate(
        names,
        ("Score", None, lambda name: f"{name} {signatures.get(name, '')}".rstrip()),
        ("Teacher", "measured", lambda name: _or_missing(teacher.get(name), numbers.plain)),
        ("Student", "measured", lambda name: _or_missing(student.get(name), numbers.plain)),
    )


def scores_by_class_table(summary: Summary) -> Table | None:
    """Return the score of every class of a task that accuracy does not describe."""
    scores = summary.scores_per_class
    if not scores:
        return None
    return _tabulate(
        list(scores.items()),
        ("Class", None, lambda row: row[0]),
        ("Teacher", "measured", lambda row: _or_missing(row[1].get("teacher"), numbers.plain)),
        ("Student", "measured", lambda row: _or_missing(row[1].get("student"), numbers.plain)),
    )


def networks_table(summary: Summary) -> Table | None:
    """Return parameters, FLOPs and times of teacher and student."""
    together = f"Images/s, {summary.timed_in_batches_of} at once, CPU"
    rows = [
        (name, write, *(getattr(summary, f"{role}_{what}") for role in ("teacher", "student")))
        for name, write, what in (
            ("Parameters", numbers.short, "parameters"),
            ("FLOPs an image", numbers.short, "flops"),
            ("Latency of one image, CPU", numbers.milliseconds, "latency_ms"),
            (together, numbers.count, "answers_per_second"),
        )
    ]
    rows = [row for row in rows if row[2] is not None or row[3] is not None]
    if not rows:
        return None
    return _tabulate(
        rows,
        ("", None, lambda row: row[0]),
        ("Teacher", "measured", lambda row: _or_missing(row[2], row[1])),
        ("Student", "measured", lambda row: _or_missing(row[3], row[1])),
        (
            "Student is",
            "measured",
            lambda row: (
                f"{numbers.share_of(row[3], row[2])} the teacher's"
                if row[2] and row[3]
                else MISSING
            ),
        ),
    )


def forms_table(exports: Sequence[ExportedForm]) -> Table:
    """Return size, speed and agreement of each exported form."""
    largest = max((form.bytes or 0 for form in exports), default=0)
    slowest = max((form.latency_ms or 0.0 for form in exports), default=0.0)
    return _tabulate(
        exports,
        ("Form", None, lambda form: form.form),
        (
            "File",
            "measured",
            lambda form: _barred(
                form.bytes, largest, numbers.size, _behind("weights", form.weight_bytes)
            ),
        ),
        (
            "Latency",
            "measured",
            lambda form: _barred(form.latency_ms, slowest, numbers.milliseconds),
        ),
        ("Images/s", "measured", lambda form: _or_missing(form.images_per_second, numbers.count)),
        ("Accuracy", "measured", lambda form: _or_missing(form.accuracy, numbers.percent)),
        ("Same answer", "proxy", lambda form: _or_missing(form.agreement, numbers.percent)),
        (
            "Largest difference",
            "proxy",
            lambda form: _or_missing(form.max_difference, numbers.plain),
        ),
        (
            "Quantize nodes",
            "measured",
            lambda form: _or_missing(form.quantize_nodes, numbers.count),
        ),
    )


def finding_table(finding: SavedFinding) -> Table | None:
    """Return the values with a documented meaning, one column per stream."""
    streams = [name for name, inner in finding.measurements.items() if isinstance(inner, dict)]
    told = {
        name: [finding.measurements[stream].get(name) for stream in streams]
        for name in finding.meanings
    }
    rows = [(name, values) for name, values in told.items() if any(v is not None for v in values)]
    if not rows:
        return None

    def figure_of(place: int) -> Callable[[tuple[str, list[Any]]], str]:
        return lambda row: _or_missing(row[1][place], numbers.two_digits)

    def named(row: tuple[str, list[Any]]) -> Cell:
        title, meaning, _ = finding.meanings[row[0]]
        return Cell(text=title, detail=meaning)

    return _tabulate(
        rows,
        ("", None, named),
        *((stream.capitalize(), "proxy", figure_of(place)) for place, stream in enumerate(streams)),
        ("Good", None, lambda row: finding.meanings[row[0]][2]),
    )


def _tabulate(
    items: Iterable[Item],
    *columns: tuple[str, Tag | None, Callable[[Item], str | Cell]],
) -> Table:
    """Return one row per item and one column per title, without empty columns."""
    filled = []
    for title, tag, write in columns:
        written = [write(item) for item in items]
        cells = [Cell(text=cell) if isinstance(cell, str) else cell for cell in written]
        if any(cell.text != MISSING for cell in cells):
            filled.append((title, tag, cells))
    return Table(
        columns=tuple((title, tag) for title, tag, _ in filled),
        rows=tuple(zip(*(cells for _, _, cells in filled), strict=True)),
    )


def _scored(summary: Summary, role: Literal["teacher", "student"], count: int | None) -> Arm:
    """Return the label of teacher or student, with its classes."""
    on = {"teacher": ", old classes", "student": ", all classes"}
    name = f"{role.capitalize()}{on[role] if summary.learned_classes else ''}"
    accuracy, correct = (getattr(summary, f"{role}_{what}") for what in ("accuracy", "correct"))
    return _arm(name, accuracy, correct, count)


def _arm(name: str, accuracy: float | None, correct: int | None, count: int | None) -> Arm:
    return Arm(name=name, accuracy=accuracy, correct=correct, count=count)


def _correct(arm: Arm) -> str:
    if arm.accuracy is None or not arm.count:
        return MISSING
    right = round(arm.accuracy * arm.count) if arm.correct is None else arm.correct
    return f"{numbers.count(right)} of {numbers.count(arm.count)}"


def _interval(arm: Arm) -> str:
    if arm.accuracy is None or not arm.count:
        return MISSING
    return numbers.interval(*accuracy_interval(arm.accuracy, arm.correct, arm.count))


def _change(score: ClassScore) -> str:
    return _difference(score.student, score.teacher)


def _difference(after: float | None, before: float | None) -> str:
    return MISSING if after is None or before is None else numbers.points(after - before)


def _or_missing(value: float | None, write: Callable[[float], str]) -> str:
    return MISSING if value is None else write(value)


def _barred(
    value: float | None, largest: float, write: Callable[[float], str], detail: str = ""
) -> Cell:
    # 0 means not measured.
    if not value:
        return Cell(text=MISSING)
    return Cell(text=write(value), bar=value / largest, detail=detail)


def _behind(name: str, size: int | None) -> str:
    return "" if size is None else f"{name} {numbers.size(size)}"
