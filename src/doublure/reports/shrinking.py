"""`report.html` of a `shrink`: the recommendation, the front of size and quality, every file.

A pure function of `summary.json`; equal summaries give equal bytes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator
from pydantic import TypeAdapter, ValidationError

from doublure.compress.shrinking_choice import Recommendation, Row
from doublure.compress.shrinking_plan import LeftOut, Target
from doublure.core.findings import Tag
from doublure.data.own_files import RunFolderError
from doublure.engine.run_folder import SUMMARY, write_whole
from doublure.reports import numbers
from doublure.reports.facts import MISSING, Fact
from doublure.reports.page import PAGE, unbroken
from doublure.reports.svg import INK, LINE, STUDENT, TEACHER, draw_svg, per_cent_axis
from doublure.reports.tables import Cell, Table
from doublure.reports.verdict import accuracy_interval

By = Literal["bytes", "latency_ms"]
_HEIGHT = 300
# Width of a letter of a name, as a share of the picture's width.
_LETTER = 0.024


@dataclass(frozen=True, kw_only=True)
class Placed(Row):
    """A row with its rank.

    Args:
        takes: its size or latency as a share of the target.
        front: whether it is on the Pareto front: nothing smaller is better.
    """

    takes: float
    front: bool


@dataclass(frozen=True, kw_only=True)
class ShrinkSummary:
    """`summary.json` of a `shrink`."""

    verb: Literal["shrink"]
    teacher_reference: str
    target: Target
    teacher: Row
    rows: tuple[Placed, ...]
    recommendation: Recommendation
    left_out: tuple[LeftOut, ...]
    failed: tuple[LeftOut, ...]
    agreement_images: int
    budget: float
    seconds: float
    seed: int


def is_shrink(folder: Path) -> bool:
    """Return whether a folder's summary is that of a `shrink`."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("verb") == "shrink"


def write_shrinking_report(folder: Path) -> Path:
    """Write the page into the folder, atomically; return its path."""
    path = folder / SUMMARY
    try:
        summary = TypeAdapter(ShrinkSummary).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RunFolderError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    write_whole(folder / PAGE, render(summary))
    return folder / PAGE


def render(summary: ShrinkSummary) -> str:
    """Return the page."""
    loader = PackageLoader("doublure.reports")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["unbroken"] = unbroken
    labelled = summary.teacher.accuracy is not None
    tag: Tag = "measured" if labelled else "proxy"
    return environment.get_template("shrinking.html").render(
        summary=summary,
        level="ok" if summary.recommendation.meets and labelled else "warn",
        label="Meets the target" if summary.recommendation.meets else "Nothing meets the target",
        labelled=labelled,
        tag=tag,
        facts=_facts(summary),
        by_bytes=Markup(front_chart(summary, "bytes")),
        by_latency=Markup(front_chart(summary, "latency_ms")),
        table_of_files=files_table(summary),
    )


def files_table(summary: ShrinkSummary) -> Table:
    """Return every file, the teacher's first, then by size."""
    teacher = summary.teacher
    rows = [teacher, *sorted(summary.rows, key=lambda row: row.bytes)]
    labelled = teacher.accuracy is not None
    columns: list[tuple[str, Tag | None]] = [
        ("File", None),
        ("Bytes", "measured"),
        ("Parameters", "measured"),
        ("MACs", "measured"),
        ("Latency", "measured"),
        *((f"As the teacher on {name}", "proxy") for name in teacher.agreement),
    ]
    if labelled:
        columns.append(("Accuracy", "measured"))
    return Table(columns=tuple(columns), rows=tuple(_cells(row, summary, labelled) for row in rows))


def front_chart(summary: ShrinkSummary, by: By) -> str:
    """Return the chart of quality over size (or latency), with the front."""
    points = sorted(summary.rows, key=lambda row: getattr(row, by))
    teacher, chosen = summary.teacher, summary.recommendation
    best = _front(points, by)
    unit, letter = (1.0, "ms") if by == "latency_ms" else numbers.unit_of(teacher.bytes)
    label = f"latency of one image, {letter}" if by == "latency_ms" else f"file, {letter}B"

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.plot(
            [getattr(row, by) for row in best],
            [row.quality for row in best],
            color=LINE,
            linewidth=1.6,
        )
        for row in points:
            filled = "full" if row.quantized else "none"
            size = 9 if row.path == chosen.path else 6
            axes.plot(
                getattr(row, by), row.quality, "o", color=STUDENT, fillstyle=filled, markersize=size
            )
        axes.plot(getattr(teacher, by), teacher.quality, "s", color=TEACHER, markersize=7)
        limit = _limit(summary, by)
        if limit is not None:
            axes.axvline(limit, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        per_cent_axis(axes.yaxis)
        axes.margins(x=0.08, y=0.12)
        axes.figure.canvas.draw()
        for row in points:
            if row.path == chosen.path or row in best:
                _name(axes, getattr(row, by), row)

    quality = "accuracy" if teacher.accuracy is not None else "mean agreement"
    shown = ", ".join(f"{row.name} {numbers.percent(row.quality)}" for row in best)
    size = "latency" if by == "latency_ms" else "bytes"
    alt = f"{quality} against {size}; on the front: {shown}"
    return draw_svg(f"front-{size}", draw, alt, _HEIGHT)


def _front(points: Sequence[Placed], by: By) -> list[Placed]:
    best: list[Placed] = []
    for row in sorted(points, key=lambda row: (getattr(row, by), -row.quality)):
        if not best or row.quality > best[-1].quality:
            best.append(row)
    return best


def _name(axes: Axes, at: float, row: Row) -> None:
    """Write a candidate's name above its point to the left, where the front leaves space."""
    across = axes.transAxes.inverted().transform(axes.transData.transform((at, row.quality)))[0]
    name = "teacher" if row.candidate == "int8" else row.candidate
    side = "left" if across < _LETTER * len(name) else "right"
    label = axes.annotate(
        name,
        (at, row.quality),
        xytext=(-4 if side == "right" else 0, 6),
        textcoords="offset points",
        ha=side,
        fontsize=9,
    )
    label.set_in_layout(False)


def _limit(summary: ShrinkSummary, by: By) -> float | None:
    """Return the target's position, if it is of that kind."""
    target = summary.target
    if (target.unit == "milliseconds") != (by == "latency_ms"):
        return None
    return target.value * (summary.teacher.bytes if target.unit == "share" else 1.0)


def _facts(summary: ShrinkSummary) -> list[Fact]:
    teacher, chosen = summary.teacher, summary.recommendation
    row = next(row for row in summary.rows if row.path == chosen.path)
    facts = [
        Fact(
            name="File",
            value=numbers.size(row.bytes),
            tag="measured",
            detail=f"{numbers.share_of(row.bytes, teacher.bytes)} the teacher's, {row.path}",
        ),
        Fact(
            name="Latency",
            value=numbers.milliseconds(row.latency_ms),
            tag="measured",
            detail=f"teacher {numbers.milliseconds(teacher.latency_ms)}",
        ),
    ]
    if row.accuracy is not None and teacher.accuracy is not None:
        detail = (
            f"teacher {numbers.percent(teacher.accuracy)}, {numbers.count(row.count or 0)} images"
        )
        value = numbers.percent(row.accuracy)
        facts.append(Fact(name="Accuracy", value=value, tag="measured", detail=detail))
    facts.append(
        Fact(
            name="Least agreement",
            value=numbers.percent(min(row.agreement.values())),
            tag="proxy",
            detail=f"of {', '.join(row.agreement)}",
        )
    )
    return facts


def _cells(row: Row, summary: ShrinkSummary, labelled: bool) -> tuple[Cell, ...]:
    teacher = summary.teacher
    share = f"{row.bytes / teacher.bytes:.2f} of the teacher's"
    marks = []
    if isinstance(row, Placed):
        marks += ["recommended"] if row.path == summary.recommendation.path else []
        marks += ["meets the target"] if row.takes <= 1 else []
    made = [
        Cell(text=row.name, detail=", ".join(marks)),
        Cell(text=numbers.size(row.bytes), bar=row.bytes / teacher.bytes, detail=share),
        Cell(text=numbers.short(row.parameters)),
        Cell(text=numbers.short(row.macs)),
        Cell(text=numbers.milliseconds(row.latency_ms)),
        *(Cell(text=numbers.percent(share)) for share in row.agreement.values()),
    ]
    if labelled:
        made.append(_accuracy(row))
    return tuple(made)


def _accuracy(row: Row) -> Cell:
    if row.accuracy is None or not row.count:
        return Cell(text=MISSING)
    low, high = accuracy_interval(row.accuracy, row.correct, row.count)
    detail = f"{numbers.interval(low, high)}, {numbers.count(row.count)} images"
    return Cell(text=numbers.percent(row.accuracy), detail=detail)
