"""Single values of the report, each with its name and basis.

Pure functions from parts of the record to facts; an empty list if there is none.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doublure.core.findings import Tag
from doublure.reports import numbers
from doublure.reports.record import ExportedForm, RunRecord, Summary
from doublure.reports.shown_images import Samples
from doublure.reports.verdict import accuracy_interval

MISSING = "–"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One value, its basis (None: a setting, not a measurement), and a reference value."""

    name: str
    value: str
    tag: Tag | None = None
    detail: str = ""


def headline_facts(record: RunRecord) -> list[Fact]:
    """Return up to four values below the verdict."""
    summary = record.summary
    if summary is None:
        return []
    facts = []
    if summary.learned_classes:
        facts += _old_and_new(summary)
    elif summary.student_accuracy is not None:
        teacher = summary.teacher_accuracy
        detail = "" if teacher is None else f"teacher {numbers.percent(teacher)}"
        value = numbers.percent(summary.student_accuracy)
        facts.append(Fact(name="Accuracy", value=value, tag="measured", detail=detail))
    if summary.agreement is not None:
        value = numbers.percent(summary.agreement)
        facts.append(
            Fact(name="Agreement", value=value, tag="proxy", detail=f"on {summary.compared_on}")
        )
    if summary.student_parameters is not None:
        facts.append(_parameters(summary.student_parameters, summary.teacher_parameters))
    return [*facts, *_smallest_and_fastest(record.exports or ()), *_latency(summary)][:4]


def _old_and_new(summary: Summary) -> list[Fact]:
    before = summary.teacher_accuracy
    rows = (
        ("Old classes", summary.old_accuracy, "" if before is None else numbers.percent(before)),
        ("New classes", summary.new_accuracy, ""),
    )
    return [
        Fact(
            name=name,
            value=numbers.percent(accuracy),
            tag="measured",
            detail=f"{was} before" if was else "",
        )
        for name, accuracy, was in rows
        if accuracy is not None
    ]


def _parameters(student: int, teacher: int | None) -> Fact:
    value, detail = numbers.short(student), ""
    if teacher:
        share = numbers.share_of(student, teacher)
        detail = f"{share} the teacher's {numbers.short(teacher)}"
        if share == numbers.EQUAL:
            detail = "as many as the teacher"
    return Fact(name="Parameters", value=value, tag="measured", detail=detail)


def _latency(summary: Summary) -> list[Fact]:
    student, teacher = summary.student_latency_ms, summary.teacher_latency_ms
    if not student or not teacher:
        return []
    share = numbers.share_of(student, teacher)
    detail = f"{share} the teacher's {numbers.milliseconds(teacher)}, on the CPU"
    value = numbers.milliseconds(student)
    return [Fact(name="Latency", value=value, tag="measured", detail=detail)]


def _smallest_and_fastest(exports: Sequence[ExportedForm]) -> list[Fact]:
    sized = [(form.bytes, form.form) for form in exports if form.bytes]
    timed = [(form.latency_ms, form.form) for form in exports if form.latency_ms is not None]
    facts = []
    if sized:
        value, form = min(sized)
        facts.append(
            Fact(name="Smallest file", value=numbers.size(value), tag="measured", detail=form)
        )
    if timed:
        latency, form = min(timed)
        value_text = numbers.milliseconds(latency)
        facts.append(Fact(name="Fastest form", value=value_text, tag="measured", detail=form))
    return facts


def class_facts(samples: Samples, names: Sequence[str]) -> list[Fact]:
    """Return the histogram in words: number of classes, most frequent and missing ones."""
    histogram = samples.histogram
    if histogram is None or not histogram.sum():
        return []
    part = histogram / histogram.sum()
    order = (-part).argsort(kind="stable")
    never = [names[place] for place in order if not histogram[place]]
    return [
        Fact(name="Images sampled", value=numbers.count(int(histogram.sum())), tag="proxy"),
        Fact(
            name="Classes named",
            value=f"{len(histogram) - len(never)} of {len(histogram)}",
            tag="proxy",
            detail=f"never: {_some(never)}" if never else "none is missing",
        ),
        Fact(
            name="Most frequent",
            value=numbers.percent(float(part[order[0]])),
            tag="proxy",
            detail=names[order[0]],
        ),
        Fact(
            name="Equal shares would be",
            value=numbers.percent(1 / len(histogram)),
            detail="the dashed line",
        ),
    ]


def agreement_facts(summary: Summary) -> list[Fact]:
    """Return the agreement of student and teacher, with its interval."""
    if summary.agreement is None:
        return []
    detail = summary.agreement_on or summary.words.held_out
    if summary.agreement_count:
        # Many views of few images are not more informative than those images.
        independent = min(summary.agreement_count, summary.agreement_images or math.inf)
        low, high = accuracy_interval(summary.agreement, None, int(independent))
        counted = numbers.plural(summary.agreement_count, summary.words.answered)
        detail = f"95 % interval {numbers.interval(low, high)}, on {counted}: {detail}"
    value = numbers.percent(summary.agreement)
    return [Fact(name=summary.words.same, value=value, tag="proxy", detail=detail)]


def run_facts(summary: Summary) -> list[Fact]:
    """Return the settings of the run: length, speed, seed."""
    rows: tuple[tuple[str, float | None, Callable[[float], str], Tag | None], ...] = (
        ("Steps", summary.steps, numbers.count, None),
        ("Batch size", summary.batch_size, numbers.count, None),
        ("Seed", summary.seed, str, None),
        ("Time", summary.seconds, numbers.duration, "measured"),
        (
            f"{summary.words.shown.capitalize()}/s",
            summary.images_per_second,
            numbers.count,
            "measured",
        ),
    )
    facts = [
        Fact(name=name, value=write(value), tag=tag)
        for name, value, write, tag in rows
        if value is not None
    ]
    return facts if summary.quantization is None else [*facts, _rounded(summary.quantization)]


def _rounded(share: Mapping[str, Any]) -> Fact:
    """Return how much of the network rounds, in words."""
    detail = (
        f"{numbers.plural(share['layers'], 'layer')}, {share['mean_weight_bits']:.2f} bits a weight"
        f", inputs of {share['input_layers']}; simulated in float32"
    )
    value = numbers.percent(share["share"])
    return Fact(name="Weights rounded", value=value, tag="measured", detail=detail)


def finding_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a finding's values as name and text; inner tables become "outer, inner"."""
    rows = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}, {inner}", text) for inner, text in finding_rows(value)]
        else:
            rows.append((name.replace("_", " "), _any_value(value)))
    return rows


def _any_value(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return numbers.plain(value)
    if isinstance(value, list) and all(not isinstance(item, (list, dict)) for item in value):
        shown = ", ".join(_any_value(item) for item in value[:8])
        return shown if len(value) <= 8 else f"{shown} and {len(value) - 8} more"
    return value if isinstance(value, str) else json.dumps(value)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
