"""The report's pictures: curves, bars and points as inline SVG, images as PNG data URIs.

Pure functions from parts of the record to markup; equal input gives equal bytes, None if there is
nothing to draw. `svg.py` embeds charts in the page.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from doublure.reports import numbers
from doublure.reports.record import Arm, ClassScore, ExportedForm
from doublure.reports.svg import INK, LINE, STUDENT, TEACHER, draw_svg, per_cent_axis, ticks
from doublure.reports.verdict import accuracy_interval

_POINTS = 300  # of a curve: more than the pixels it is drawn on serve nobody
_NAMED_BARS = 24  # with more classes than this, names would no longer fit beside their bars
_CLOSE = 40  # pixels between two points whose names would run into each other
_NAME = 20  # letters of a name beside a bar
SHEET_BYTES = 1_000_000  # of all images of a page together
_NOT_CURVES = {"stage", "step", "learning_rate", "images_per_second", "seconds"}
_SHARES = ("accuracy", "agreement")
_FIRST = ("loss", *_SHARES)
CURVES = 4  # that stand on the page; the rest are smaller and folded away
_FEW = 12  # points, that a curve marks one by one
_HEIGHT, _LOW = 225, 140  # CSS pixels


def curves(metrics: Sequence[Mapping[str, float]]) -> list[tuple[str, str]]:
    """Return name and picture of each logged value over steps: loss, scores, then the rest.

    Each has its own scale, since a metrics log has values of different units.
    """
    names = dict.fromkeys(name for row in metrics for name in row if name not in _NOT_CURVES)
    first = [name for name in _FIRST if name in names]
    order = [*first, *(name for name in names if name not in first)]
    pictures: list[tuple[str, str]] = []
    seen = []
    for place, name in enumerate(order):
        line = _series(metrics, name)
        # A loss with one term equals that term: one picture is enough.
        if line[0] and line not in seen:
            height = _HEIGHT if len(pictures) < CURVES else _LOW
            pictures.append((name, _curve(f"curve-{place}", name, *line, height)))
            seen.append(line)
    return pictures


def class_histogram(histogram: Int[np.ndarray, " classes"], names: Sequence[str]) -> str:
    """Return the histogram of the teacher's classes; by rank if there are many."""
    part = histogram / max(1, histogram.sum())

    def draw(axes: Axes) -> None:
        if len(part) > _NAMED_BARS:
            ranked = np.sort(part)[::-1]
            axes.stairs(ranked, np.arange(len(part) + 1), fill=True, color=TEACHER)
            axes.set(xlabel="classes, most frequent first", xlim=(0, len(part)))
            axes.axhline(1 / len(part), color=INK, linewidth=1, linestyle=(0, (4, 3)))
            per_cent_axis(axes.yaxis)
            axes.xaxis.set_major_locator(ticks(integer=True))
        else:
            labels = [numbers.percent(float(value)) for value in part]
            _bars(axes, names, part, labels, [TEACHER] * len(part))
            axes.axvline(1 / len(part), color=INK, linewidth=1, linestyle=(0, (4, 3)))

    height = _HEIGHT if len(part) > _NAMED_BARS else _rows_high(len(part))
    top = int(part.argmax())
    alt = (
        f"Share of transfer images by the teacher's top class, {len(part)} classes; the most "
        f"frequent is {names[top]} with {numbers.percent(float(part[top]))}"
    )
    return draw_svg("histogram", draw, alt, height)


def class_accuracies(per_class: Mapping[str, ClassScore]) -> str | None:
    """Return teacher and student for the classes with the largest losses."""
    scored = [
        (name, score.teacher, score.student)
        for name, score in per_class.items()
        if score.student is not None
    ]
    if not scored:
        return None
    if len(scored) > _NAMED_BARS:
        scored = sorted(scored, key=lambda row: (row[2] or 0.0) - (row[1] or 0.0))[:16]

    def draw(axes: Axes) -> None:
        for place, (_, teacher, student) in enumerate(scored):
            if teacher is not None:
                axes.plot([teacher, student], [place, place], color=LINE, linewidth=2, zorder=1)
                axes.plot(
                    teacher, place, "o", color=TEACHER, markersize=7, fillstyle="none", mew=1.6
                )
            axes.plot(student, place, "o", color=STUDENT, markersize=6)
        _name_rows(axes, [row[0] for row in scored])
        per_cent_axis(axes.xaxis)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")

    alt = f"Accuracy of teacher and student on {len(scored)} classes"
    return draw_svg("classes", draw, alt, _rows_high(len(scored)))


def arms_chart(arms: Sequence[Arm], teacher_accuracy: float | None) -> str | None:
    """Return the accuracy with each transfer set, with its 95 % interval."""
    known = [(arm, arm.accuracy) for arm in arms if arm.accuracy is not None]
    if not known:
        return None

    def draw(axes: Axes) -> None:
        labels = [numbers.percent(accuracy) for _, accuracy in known]
        values = np.array([accuracy for _, accuracy in known])
        _bars(axes, [arm.name for arm, _ in known], values, labels, [STUDENT] * len(known))
        for place, (arm, accuracy) in enumerate(known):
            if arm.count:
                low, high = accuracy_interval(accuracy, arm.correct, arm.count)
                axes.plot([low, high], [place, place], color=INK, linewidth=1.4)
        if teacher_accuracy is not None:
            axes.axvline(teacher_accuracy, color=TEACHER, linewidth=1.4, linestyle=(0, (4, 3)))

    shown = ", ".join(f"{arm.name} {numbers.percent(accuracy)}" for arm, accuracy in known)
    return draw_svg(
        "arms", draw, f"Student accuracy by transfer set: {shown}", _rows_high(len(known))
    )


def forms_chart(
    exports: Sequence[ExportedForm], by: Literal["accuracy", "agreement"]
) -> str | None:
    """Return file size against accuracy, or against agreement with the float network."""
    rows = [(form.form, form.bytes, getattr(form, by)) for form in exports]
    known = [(name, size, share) for name, size, share in rows if size and share is not None]
    if len({size for _, size, _ in known}) < 2:
        return None
    sizes, values = [size for _, size, _ in known], [share for _, _, share in known]
    unit, name_of_unit = numbers.unit_of(max(sizes))

    def draw(axes: Axes) -> None:
        axes.set(xlim=(0, 1.1 * max(sizes)), xlabel=f"file size, {name_of_unit}B")
        # At least six points high, so that a difference in the last digit does not look large.
        middle, half = (max(values) + min(values)) / 2, max(0.03, max(values) - min(values))
        axes.set_ylim(middle - half, min(middle + half, 1 + 0.4 * half))
        axes.plot(sizes, values, "o", color=STUDENT, markersize=7)
        axes.xaxis.set_major_locator(ticks())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}"))
        per_cent_axis(axes.yaxis)
        _name_points(axes, known)

    shown = ", ".join(
        f"{name} {numbers.size(size)} {numbers.percent(share)}" for name, size, share in known
    )
    return draw_svg("forms", draw, f"File size against {by}: {shown}", _HEIGHT)


def contact_sheet(
    images: UInt8[np.ndarray, "images height width channels"], budget: int
) -> list[str]:
    """Return each image as a PNG data URI, shrunk until all of them fit the budget in bytes."""
    for side in (128, 96, 64, 48, 32):
        sheet = [_png(image, side) for image in images]
        if sum(map(len, sheet)) <= budget:
            break
    return sheet


def _png(image: UInt8[np.ndarray, "height width channels"], side: int) -> str:
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    # Images are never enlarged here: the page enlarges small ones without smoothing.
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _series(metrics: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Return steps and values of one logged metric, averaged to at most `_POINTS` points."""
    steps, values, base, last = [], [], 0.0, -1.0
    for row in metrics:
        # A later stage counts its steps from zero: it is placed after the one before.
        if row["step"] < last:
            base += last
        last = row["step"]
        if name in row and np.isfinite(row[name]):
            steps.append(base + row["step"])
            values.append(row[name])
    groups = np.array_split(np.arange(len(steps)), min(_POINTS, max(1, len(steps))))
    filled = [group for group in groups if len(group)]
    return (
        [float(np.mean([steps[place] for place in group])) for group in filled],
        [float(np.mean([values[place] for place in group])) for group in filled],
    )


def _curve(
    ident: str, name: str, steps: Sequence[float], values: Sequence[float], height: int
) -> str:
    def draw(axes: Axes) -> None:
        mark = "o" if len(steps) < _FEW else ""
        axes.plot(steps, values, color=STUDENT, linewidth=1.8, marker=mark, markersize=4)
        (_share_axis if name in _SHARES else _own_axis)(axes, values)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(ticks(integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.count(value)))
        axes.margins(x=0.02)

    ends = f"from {numbers.plain(values[0])} to {numbers.plain(values[-1])}"
    return draw_svg(ident, draw, f"{name} over training steps: {ends}", height)


def _own_axis(axes: Axes, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        wide = max(values) > 300 * min(values)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    else:
        axes.yaxis.set_major_locator(ticks())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value < 1e4 else numbers.short(value))
    )


def _share_axis(axes: Axes, values: Sequence[float]) -> None:
    axes.set_ylim(max(0.0, min(values) - 0.05), min(1.02, max(values) + 0.05))
    per_cent_axis(axes.yaxis)


def _bars(
    axes: Axes,
    names: Sequence[str],
    values: np.ndarray,
    labels: Sequence[str],
    colours: Sequence[str],
) -> None:
    axes.barh(range(len(names)), values, height=0.62, color=colours)
    _name_rows(axes, names)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    # The numbers are in a separate column, outside of bars and intervals.
    for place, label in enumerate(labels):
        axes.text(1.02, place, label, transform=axes.get_yaxis_transform(), va="center", color=INK)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    flat = [" ".join(name.split()) for name in names]
    shown = [name if len(name) <= _NAME else f"{name[: _NAME - 1].rstrip(' ,')}…" for name in flat]
    axes.set_yticks(range(len(names)), shown, color=INK)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _name_points(axes: Axes, points: Sequence[tuple[str, int, float]]) -> None:
    """Write names above points; overlapping points share one line of names."""
    axes.figure.canvas.draw()
    groups: list[tuple[np.ndarray, list[tuple[str, int, float]]]] = []
    for point in points:
        here = axes.transData.transform(point[1:])
        near = next((group for at, group in groups if np.hypot(*(at - here)) < _CLOSE), None)
        if near is None:
            groups.append((here, [point]))
        else:
            near.append(point)
    for at, group in groups:
        across = axes.transAxes.inverted().transform(at)[0]
        side = "left" if across < 0.35 else "right" if across > 0.65 else "center"
        text = ", ".join(name for name, _, _ in group)
        axes.annotate(
            text, group[0][1:], xytext=(0, 10), textcoords="offset points", ha=side
        ).set_in_layout(False)


def _rows_high(rows: int) -> int:
    return 22 * rows + 34
