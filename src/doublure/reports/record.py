"""The record of a RUN folder: every file is optional, and every file is checked.

A missing file is None, with a note in its section of the page. An invalid file raises one line with
its path, the place inside it, and a remedy.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from doublure.core.findings import Tag
from doublure.core.words import NEUTRAL, Words
from doublure.data.own_files import RunFolderError
from doublure.engine.run_folder import METRICS, RECIPE, SUMMARY
from doublure.reports.picture_rows import PICTURE_ROWS, PictureRows, read_picture_rows
from doublure.reports.shown_images import (
    OPTIMISATION_PATH,
    SAMPLES,
    WAY_OUT,
    OptimisationRecord,
    Samples,
    read_samples,
    read_search_path,
)

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Value = TypeVar("Value")

FINDINGS, EXPORTS, MANIFEST = "findings.json", "exports.json", "manifest.json"
FILES = (
    *(SUMMARY, METRICS, SAMPLES, PICTURE_ROWS, OPTIMISATION_PATH),
    *(FINDINGS, EXPORTS, RECIPE, MANIFEST),
)


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Accuracy on one class, of `count` labelled images."""

    count: Count
    teacher: Share | None = None
    student: Share | None = None


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of several transfer sets, compared under equal conditions."""

    name: str
    accuracy: Share | None = None
    correct: Count | None = None
    count: Count | None = None
    agreement: Share | None = None
    seconds: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """`summary.json`. Accuracies are shares; None means not measured.

    If a network learned new classes, there are separate accuracies on old and on new ones, each
    among all its classes; forgetting is the accuracy on old ones before minus that after.
    """

    verb: str = "distill"
    words: Words = NEUTRAL
    method: str | None = None
    paper: str | None = None
    teacher_reference: str | None = None
    student_reference: str | None = None
    teacher_accuracy: Share | None = None
    student_accuracy: Share | None = None
    teacher_correct: Count | None = None
    student_correct: Count | None = None
    accuracy_count: Count | None = None
    accuracy_on: str | None = None
    teacher_calibration_error: Share | None = None
    student_calibration_error: Share | None = None
    teacher_scores: dict[str, float] | None = None
    student_scores: dict[str, float] | None = None
    score_signatures: dict[str, str] = field(default_factory=dict)
    per_class: dict[str, ClassScore] | None = None
    scores_per_class: dict[str, dict[str, float]] | None = None
    old_accuracy: Share | None = None
    old_correct: Count | None = None
    old_count: Count | None = None
    new_accuracy: Share | None = None
    new_correct: Count | None = None
    new_count: Count | None = None
    new_classes: Count | None = None
    forgetting: Annotated[float, Field(ge=-1, le=1)] | None = None
    agreement: Share | None = None
    agreement_count: Count | None = None
    agreement_images: Count | None = None
    agreement_on: str | None = None
    images_per_second: Amount | None = None
    seconds: Amount | None = None
    steps: Count | None = None
    batch_size: Count | None = None
    teacher_parameters: Count | None = None
    student_parameters: Count | None = None
    teacher_flops: Count | None = None
    student_flops: Count | None = None
    teacher_latency_ms: Amount | None = None
    student_latency_ms: Amount | None = None
    teacher_answers_per_second: Amount | None = None
    student_answers_per_second: Amount | None = None
    timed_in_batches_of: Count | None = None
    seed: int | None = None
    class_names: tuple[str, ...] | None = None
    quantization: dict[str, Any] | None = None
    arms: tuple[Arm, ...] | None = None
    warnings: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()

    @property
    def compared_on(self) -> str:
        """The items of the agreement; after a semicolon, the reason why nothing was held out."""
        images, mark, _ = (self.agreement_on or "").partition(";")
        if mark:
            return images
        views, distinct = self.agreement_count, self.agreement_images
        if views is None or distinct is None or distinct >= views:
            return self.words.held_out
        return f"views of {distinct:,} {self.words.held_out}"

    @property
    def learned_classes(self) -> bool:
        """Whether the student has separate scores on old and on new classes."""
        return self.old_accuracy is not None or self.new_accuracy is not None

    @property
    def teacher_count(self) -> int | None:
        """The number of labelled images for the teacher: those of its classes."""
        return self.old_count if self.learned_classes else self.accuracy_count


@dataclass(frozen=True, kw_only=True)
class SavedFinding:
    """One line of `findings.json`: a finding without its pictures."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    summary: str
    tag: Tag
    measurements: dict[str, Any] = field(default_factory=dict)
    meanings: dict[str, tuple[str, str, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportedForm:
    """One row of `exports.json`; the first is the float network, the reference for the others."""

    form: str
    path: str | None = None
    bytes: Count | None = None
    weight_bytes: Count | None = None
    latency_ms: Amount | None = None
    images_per_second: Amount | None = None
    max_difference: Amount | None = None
    agreement: Share | None = None
    accuracy: Share | None = None
    scores: dict[str, float] | None = None
    quantize_nodes: Count | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All data of a RUN folder; None for a missing file.

    Args:
        notes: remarks on the reading of the files.
    """

    name: str
    summary: Summary | None = None
    metrics: tuple[Mapping[str, float], ...] | None = None
    samples: Samples | None = None
    optimisation_path: OptimisationRecord | None = None
    picture_rows: PictureRows | None = None
    findings: tuple[SavedFinding, ...] | None = None
    exports: tuple[ExportedForm, ...] | None = None
    recipe: str | None = None
    manifest: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """The number of classes, from the first file that has it."""
        if self.summary is not None and self.summary.class_names is not None:
            return len(self.summary.class_names)
        samples = self.samples
        if samples is not None and samples.histogram is not None:
            return len(samples.histogram)
        if samples is not None and samples.teacher is not None:
            return int(samples.teacher.shape[1])
        return None


def read_run(folder: Path) -> RunRecord:
    """Return the record of the RUN in `folder`."""
    if not any((folder / name).is_file() for name in FILES):
        raise RunFolderError(
            f"{folder} is not a RUN folder (none of {', '.join(FILES)} is in it); "
            f"give the folder that a verb wrote with --out"
        )
    metrics, notes = _read_metrics(folder / METRICS)
    record = RunRecord(
        name=folder.resolve().name,
        summary=_read_json(folder / SUMMARY, TypeAdapter(Summary).validate_python),
        metrics=metrics,
        samples=read_samples(folder / SAMPLES),
        optimisation_path=read_search_path(folder / OPTIMISATION_PATH),
        picture_rows=read_picture_rows(folder / PICTURE_ROWS),
        findings=_read_json(
            folder / FINDINGS, TypeAdapter(tuple[SavedFinding, ...]).validate_python
        ),
        exports=_read_json(folder / EXPORTS, TypeAdapter(tuple[ExportedForm, ...]).validate_python),
        recipe=_read_text(folder / RECIPE),
        manifest=_read_json(folder / MANIFEST, TypeAdapter(dict[str, Any]).validate_python),
        notes=notes,
    )
    if record.summary is not None:
        _check_counts(record.summary, folder / SUMMARY)
    _check_classes(record, folder)
    return record


def _read_text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is not UTF-8 text ({error.reason}); {WAY_OUT}") from error


def _read_json(path: Path, validate: Callable[[Any], Value]) -> Value | None:
    text = _read_text(path)
    if text is None:
        return None
    try:
        return validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise RunFolderError(
            f"{path} is not JSON: {error.msg} in line {error.lineno}; {WAY_OUT}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        shown = repr(first["input"])[:60]
        raise RunFolderError(f"{path}: {place}: {first['msg']}, got {shown}; {WAY_OUT}") from error


def _read_metrics(
    path: Path,
) -> tuple[tuple[Mapping[str, float], ...] | None, tuple[str, ...]]:
    text = _read_text(path)
    if text is None:
        return None, ()
    *lines, tail = text.split("\n")
    rows = [_metrics_row(path, number, line) for number, line in enumerate(lines, 1) if line]
    if not tail:
        return tuple(rows), ()
    # A last line without a newline is incomplete: the run is still active or was interrupted.
    try:
        rows.append(_metrics_row(path, len(lines) + 1, tail))
    except RunFolderError:
        return tuple(rows), (f"The last line of {path.name} was cut off and is left out.",)
    return tuple(rows), ()


def _metrics_row(path: Path, number: int, line: str) -> Mapping[str, float]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RunFolderError(
            f"{path} is not JSON in line {number}: {error.msg}; {WAY_OUT}"
        ) from error
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise RunFolderError(f"{path}: line {number} has no whole number 'step'; {WAY_OUT}")
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _check_counts(summary: Summary, path: Path) -> None:
    """Raise if more images are correct than there are."""
    arms = summary.arms or ()
    for name, correct, count in (
        ("teacher_correct", summary.teacher_correct, summary.teacher_count),
        ("student_correct", summary.student_correct, summary.accuracy_count),
        ("old_correct", summary.old_correct, summary.old_count),
        ("new_correct", summary.new_correct, summary.new_count),
        *((f"correct of arm '{arm.name}'", arm.correct, arm.count) for arm in arms),
    ):
        if correct is not None and count is not None and correct > count:
            raise RunFolderError(f"{path}: {name} is {correct} of only {count}; {WAY_OUT}")


def _check_classes(record: RunRecord, folder: Path) -> None:
    """Raise if names and outputs have different numbers of classes."""
    names = None if record.summary is None else record.summary.class_names
    if names is None:
        return
    searched = record.optimisation_path
    if searched is not None and searched.named.max(initial=0) >= len(names):
        raise RunFolderError(
            f"{folder}: {SUMMARY} names {len(names)} classes, {OPTIMISATION_PATH} has class "
            f"{searched.named.max()}; {WAY_OUT}"
        )
    if record.samples is None:
        return
    for array in (record.samples.teacher, record.samples.student, record.samples.histogram):
        if array is not None and array.shape[-1] != len(names):
            raise RunFolderError(
                f"{folder}: {SUMMARY} names {len(names)} classes, {SAMPLES} has answers for "
                f"{array.shape[-1]}; {WAY_OUT}"
            )
