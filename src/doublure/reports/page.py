"""`report.html`: the record of a RUN as one self-contained page.

No scripts, no external resources, all text escaped; equal records give equal bytes.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from doublure.core.findings import Tag
from doublure.engine.run_folder import write_whole
from doublure.reports import facts, numbers, pictures, tables
from doublure.reports.concerns import ConcernLimits
from doublure.reports.picture_rows import PictureRows
from doublure.reports.record import RunRecord, Summary, read_run
from doublure.reports.shown_images import OptimisationRecord, Samples
from doublure.reports.verdict import judge

PAGE = "report.html"
# Full rows of images or pairs at every width; the same number is in the folded part.
_SHOWN, _SHOWN_PAIRS = 24, 20


@dataclass(frozen=True, kw_only=True)
class ImageAnswer:
    """A network's top class for one image, and its confidence."""

    index: int
    name: str
    share: str


@dataclass(frozen=True, kw_only=True)
class ImageCard:
    """One transfer image with its predictions."""

    image: str
    raw: str | None
    teacher: ImageAnswer | None
    student: ImageAnswer | None
    agree: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """The optimisation of one image: its final class, and intermediate images."""

    name: str
    points: tuple[tuple[str, str], ...]


def write_report(run: Path) -> Path:
    """Write the page of the RUN in `run` into its folder, atomically; return its path."""
    path = run / PAGE
    write_whole(path, render(read_run(run), ConcernLimits()))
    return path


def render(record: RunRecord, limits: ConcernLimits) -> str:
    """Return the page of a RUN."""
    loader = PackageLoader("doublure.reports")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["unbroken"] = unbroken
    template = environment.get_template("report.html")
    # Values on a labelled training set are measured; those on a transfer set are a proxy.
    stream_tag: Tag = "measured" if _is_supervised(record) else "proxy"
    return template.render(
        record=record,
        summary=record.summary or Summary(),
        finished=record.summary is not None,
        title=_title(record),
        verdict=judge(record, limits),
        keeps_well=numbers.percent(limits.keeps_well),
        keeps_some=numbers.percent(limits.keeps_some),
        headline_facts=facts.headline_facts(record),
        stream_tag=stream_tag,
        **_images(record.samples, _class_names(record)),
        **_optimisation_path(record.optimisation_path, _class_names(record)),
        **_picture_rows(record.picture_rows),
        **_classes(record.samples, _class_names(record)),
        **_curves(record, stream_tag),
        **_scores(record),
        **_forms(record),
        **_papers(record),
    )


def _title(record: RunRecord) -> str:
    summary = record.summary
    names = [] if summary is None else [summary.teacher_reference, summary.student_reference]
    return " → ".join(name for name in names if name) or record.name


def _is_supervised(record: RunRecord) -> bool:
    return record.summary is not None and record.summary.verb == "train"


def _class_names(record: RunRecord) -> Sequence[str]:
    if record.summary is not None and record.summary.class_names is not None:
        return record.summary.class_names
    return [str(index) for index in range(record.num_classes or 0)]


def _images(samples: Samples | None, names: Sequence[str]) -> dict[str, Any]:
    if samples is None or samples.images is None or not len(samples.images):
        return {"cards": [], "folded_cards": [], "pixelated": False, "has_raw": False}
    shown = _SHOWN if samples.raw is None else _SHOWN_PAIRS
    kept = slice(2 * shown)
    raw: Sequence[str | None] = [None] * len(samples.images[kept])
    if samples.raw is None:
        sheet = pictures.contact_sheet(samples.images[kept], pictures.SHEET_BYTES)
    else:
        sheet = pictures.contact_sheet(samples.images[kept], pictures.SHEET_BYTES // 2)
        raw = pictures.contact_sheet(samples.raw[kept], pictures.SHEET_BYTES // 2)
    cards = []
    for place, image in enumerate(sheet):
        teacher = _answer(samples.teacher, place, names)
        student = _answer(samples.student, place, names)
        cards.append(
            ImageCard(
                image=image,
                raw=raw[place],
                teacher=teacher,
                student=student,
                agree=teacher is None or student is None or teacher.index == student.index,
            )
        )
    return {
        "cards": cards[:shown],
        "folded_cards": cards[shown:],
        "pixelated": _is_small(samples.images),
        "has_raw": samples.raw is not None,
    }


def _answer(answers: Any, place: int, names: Sequence[str]) -> ImageAnswer | None:
    if answers is None:
        return None
    top = int(answers[place].argmax())
    share = float(answers[place][top])
    return ImageAnswer(index=top, name=names[top], share=_per_cent(share))


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _is_small(images: np.ndarray) -> bool:
    """Return whether images are enlarged with visible pixels."""
    return bool(max(images.shape[-3:-1]) <= 64)


def _optimisation_path(
    optimisation: OptimisationRecord | None, names: Sequence[str]
) -> dict[str, Any]:
    if optimisation is None:
        return {"optimisation_rows": [], "optimisation_points": [], "optimisation_pixelated": False}
    points, count = optimisation.images.shape[:2]
    flat = optimisation.images.reshape(-1, *optimisation.images.shape[2:])
    sheet = pictures.contact_sheet(flat, pictures.SHEET_BYTES // 4)
    rows = []
    for place in range(count):
        index = int(optimisation.named[place])
        shown = [
            (sheet[at * count + place], _per_cent(float(optimisation.sure[at, place])))
            for at in range(points)
        ]
        name = names[index] if index < len(names) else str(index)
        rows.append(Row(name=name, points=tuple(shown)))
    return {
        "optimisation_rows": rows,
        "optimisation_points": [numbers.count(int(at)) for at in optimisation.iterations],
        "optimisation_pixelated": _is_small(optimisation.images),
    }


def _picture_rows(rows: PictureRows | None) -> dict[str, Any]:
    if rows is None:
        return {"picture_columns": (), "picture_rows": []}
    flat = rows.images.reshape(-1, *rows.images.shape[2:])
    sheet = pictures.contact_sheet(flat, pictures.SHEET_BYTES)
    width = len(rows.columns)
    return {
        "picture_columns": rows.columns,
        "picture_rows": [sheet[at : at + width] for at in range(0, len(sheet), width)],
    }


def _classes(samples: Samples | None, names: Sequence[str]) -> dict[str, Any]:
    if samples is None or samples.histogram is None or not samples.histogram.sum():
        return {"histogram": None, "class_facts": []}
    return {
        "histogram": Markup(pictures.class_histogram(samples.histogram, names)),
        "class_facts": facts.class_facts(samples, names),
    }


def _curves(record: RunRecord, stream_tag: Tag) -> dict[str, Any]:
    tags: dict[str, Tag] = {"accuracy": "measured", "agreement": "proxy"}
    curves = [
        (name.replace("_", " "), Markup(svg), tags.get(name, stream_tag))
        for name, svg in pictures.curves(record.metrics or ())
    ]
    return {"curves": curves[: pictures.CURVES], "folded_curves": curves[pictures.CURVES :]}


def _scores(record: RunRecord) -> dict[str, Any]:
    summary = record.summary or Summary()
    classes = summary.per_class or {}
    chart = pictures.class_accuracies(classes)
    arms = None
    if summary.arms:
        arms = pictures.arms_chart(summary.arms, summary.teacher_accuracy)
    return {
        "agreement_facts": facts.agreement_facts(summary),
        "accuracy": tables.accuracy_table(summary, record.num_classes),
        "forgotten": "" if (lost := summary.forgetting) is None else numbers.points(-lost),
        "old_and_new": tables.old_and_new_table(summary),
        "scores": tables.scores_table(summary),
        "scores_by_class": tables.scores_by_class_table(summary),
        "class_chart": None if chart is None else Markup(chart),
        "class_table": tables.class_table(classes) if classes else None,
        "arms_chart": None if arms is None else Markup(arms),
        "arms_table": tables.arms_table(summary.arms) if summary.arms else None,
    }


def _forms(record: RunRecord) -> dict[str, Any]:
    exports = record.exports or ()
    by_accuracy = pictures.forms_chart(exports, "accuracy")
    chart = by_accuracy or pictures.forms_chart(exports, "agreement")
    return {
        "networks": tables.networks_table(record.summary or Summary()),
        "forms": tables.forms_table(exports) if exports else None,
        "forms_chart": None if chart is None else Markup(chart),
        "forms_by": "accuracy" if by_accuracy else "agreement",
        "form_notes": [(form.form, form.note) for form in exports if form.note],
    }


def _papers(record: RunRecord) -> dict[str, Any]:
    findings = [
        (finding, tables.finding_table(finding), facts.finding_rows(finding.measurements))
        for finding in record.findings or ()
    ]
    manifest = record.manifest
    return {
        "findings": findings,
        "run_facts": facts.run_facts(record.summary) if record.summary else [],
        "manifest": None
        if manifest is None
        else json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False),
    }


def unbroken(text: str) -> str:
    """Return the text with non-breaking spaces between numbers and units."""
    return re.sub(r"(?<=\d) (?=(?:%|[kMGT]?B|[kMGT]|ms|s|h|min|points)(?!\w))", "\u00a0", text)
