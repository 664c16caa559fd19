"""Tables of what students learn, by results file: arms over seeds, and what they gain or keep."""

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from cells import (
    MINUS,
    NEAR,
    PLUS_MINUS,
    Result,
    accuracy,
    asked_for,
    interval,
    length,
    percent,
    points,
    spread,
    table,
)

_FAR = "\N{DAGGER}"
_NOTHING = "\N{EM DASH}"
# So much later than asked for a look may be, as a share of the steps.
_LATE = 0.02
# So few arms are also told in words.
_TOLD = 4
_UNDECIDED = "level, as far as can be told, with"
_SIDES = ("above", "below", _UNDECIDED)


def arms(result: Result) -> str:
    """The table of a distillation benchmark: arms at equal steps, and at equal time."""
    groups = _by_length(result)
    parts = _setting(result)
    for at, rows in groups.items():
        curves = _curves(result, at, [row["arm"] for row in rows])
        early = max(map(len, curves.values()))
        timed = at.endswith(("seconds", "passes"))
        lengths = {row["arm"]: _came_to(result, at, row["arm"]) for row in rows} if timed else {}
        made = [
            [
                row["arm"],
                *curves[row["arm"]],
                accuracy(row),
                percent(row["agreement"]),
                *([f"{row['steps']:,.0f}", lengths[row["arm"]]] if timed else []),
            ]
            for row in rows
        ]
        heads = [
            f"at {length(at)}" if at else "arm",
            *(f"after {100 * (i + 1) / (early + 1):.0f} %" for i in range(early)),
        ]
        heads += ["accuracy, %", "agreement"]
        heads += ["steps", f"{at.rpartition(' ')[2]} they took"] if timed else []
        parts.append(table(heads, made))
        if any(_FAR in told for told in lengths.values()):
            parts.append(f"{_FAR} A run further than {percent(NEAR)} from what was asked for.")
    return "\n\n".join(parts)


def _came_to(result: Result, at: str, arm: str) -> str:
    """Return what the runs of an arm came to, least to most, marked where that is far off."""
    asked, unit = asked_for(at)
    found = [
        row["seconds"] if unit == "seconds" else row["teacher_forwards"] + row["teacher_backwards"]
        for row in result.get("rows", ())
        if (str(row.get("at", "")), row["arm"]) == (at, arm)
    ]
    if not found:
        return "—"
    least, most = (f"{value:,.0f}" for value in (min(found), max(found)))
    far = any(abs(value / asked - 1) > NEAR for value in found)
    return (least if least == most else f"{least} to {most}") + (f" {_FAR}" if far else "")


def _by_length(result: Result) -> dict[str, list[Mapping[str, Any]]]:
    """Return the summary by length of run, in the order in which lengths were first run."""
    lengths = dict.fromkeys(str(row.get("at", "")) for row in result.get("rows", ()))
    groups: dict[str, list[Mapping[str, Any]]] = {at: [] for at in lengths}
    for row in result["summary"]:
        groups.setdefault(str(row.get("at", "")), []).append(row)
    return {at: rows for at, rows in groups.items() if rows}


def _sources(result: Result) -> str:
    """Arms, and what each method gains over what it is held against, where both are shown."""
    shown = {row["arm"] for row in result["summary"]}
    rows = [
        [
            f"{gap['arm']} over {gap['against']}",
            length(gap["at"]),
            _gained(gap),
        ]
        for gap in result.get("gaps", ())
        if {gap["arm"], gap["against"]} <= shown
    ]
    heads = ("method, and what it is held against", "at", "points gained (95 %, over seeds)")
    return "\n\n".join([arms(result), *([table(heads, rows)] if rows else [])])


def _gained(gap: Mapping[str, Any]) -> str:
    """Return a paired gain in points with its interval over seeds."""
    gain, low, high = (points(100 * gap[name]) for name in ("gain", "low", "high"))
    return f"{gain} ({low} to {high}), {gap['seeds']} seeds"


def _told(setting: Mapping[str, Any]) -> list[str]:
    """Return each field of a setting with its value, or with its own fields in brackets."""
    told = []
    for key, value in setting.items():
        shown = f"({', '.join(_told(value))})" if isinstance(value, dict) else value
        told.append(f"{key.replace('_', ' ')} {shown}".strip())
    return told


def _setting(result: Result) -> list[str]:
    """Return what all rows share as a paragraph, or nothing."""
    told = _told(result["setting"])
    whole = ", ".join(told)
    return [f"{whole[0].upper()}{whole[1:]}."] if told else []


def _curves(result: Result, at: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the learning curves of arms before their ends, in %, as means over seeds.

    Runs that were corrected on the way were looked at elsewhere; a line between two looks then
    tells what lies between, and of the first part only what all of an arm's runs have.
    """
    rows = [
        row
        for row in result.get("rows", ())
        if str(row.get("at", "")) == at and row["arm"] in names and row.get("curve")
    ]
    if not rows:
        return {name: [] for name in names}
    # A length that does not divide evenly is looked at twice in its last steps.
    early = [sum(p["step"] < 0.99 * row["steps"] for p in row["curve"]) for row in rows]
    if len(set(early)) > 1:
        shares = [0.25, 0.5, 0.75]
    else:
        shares = [(i + 1) / (early[0] + 1) for i in range(early[0])]
    made = {}
    for name in names:
        own = [row for row in rows if row["arm"] == name]
        looks = [
            [row["curve"][i]["accuracy"] for i in range(early[0])]
            if len(set(early)) == 1
            else [_at(row, share) for share in shares]
            for row in own
        ]
        means = [_mean_share(shares_at) for shares_at in zip(*looks, strict=True)]
        made[name] = means or [_NOTHING] * len(shares)
    return made


def _at(row: dict[str, Any], share: float) -> float | None:
    """Return the accuracy after a share of a run's steps; None before the first look."""
    looks = [(point["step"] / row["steps"], point["accuracy"]) for point in row["curve"]]
    for (x0, y0), (x1, y1) in pairwise(looks):
        if x0 <= share + _LATE and share <= x1:
            return float(y0 + (y1 - y0) * max(share - x0, 0.0) / (x1 - x0))
    return None


def _mean_share(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return _NOTHING if len(known) < len(shares) else f"{100 * statistics.mean(known):.1f}"


def _digits(result: Result) -> str:
    """The same with what each arm keeps of its teacher's accuracy."""
    rows = [[name, percent(kept[0]), interval(kept)] for name, kept in result["kept"].items()]
    heads = ("arm", "of its teacher's accuracy", "95 % interval over seeds")
    return f"{arms(result)}\n\n{table(heads, rows)}"


def _lcw(result: Result) -> str:
    """The table of generated images: how far from real ones, and what students learn from them."""
    accuracies = {row["arm"]: row for row in result["summary"]}
    rows = [
        [
            arm,
            f"{mean:.2f} (one seed)" if sd is None else f"{mean:.2f} {PLUS_MINUS} {sd:.2f}",
            accuracy(accuracies[arm]),
        ]
        for arm, (mean, sd) in result["frechet"].items()
    ]
    setting = result["setting"]
    told = (
        f"A generator learned {setting['generator_steps']:,} steps of each stage from the data "
        f"named first; {setting['pair']}, {setting['steps']:,} steps on images as they are."
    )
    heads = ("data: codes", "Frechet distance to test images", "accuracy, %")
    return f"{told}\n\n{table(heads, rows)}"


def _objectives(result: Result) -> str:
    """The same with what each arm has over labels, over soft targets, and over its control."""
    shown = {row["arm"] for row in result["summary"]}
    gaps: dict[tuple[str, str], dict[str, str]] = {}
    rivals: list[str] = []
    for row in result.get("differences", ()):
        rivals += [row["over"]] if row["over"] not in rivals else []
        if row["arm"] in shown:
            told = f"{points(row['mean'])} ({points(row['low'])} to {points(row['high'])})"
            gaps.setdefault((row["at"], row["arm"]), {})[row["over"]] = told
    few = len(shown) <= _TOLD
    tables = (
        [*_setting(result), _each(result), _first_gradients_in_words(result, shown)]
        if few
        else [arms(result), _first_gradients(result, shown)]
    )
    if not gaps:
        return "\n\n".join(filter(None, tables))
    rows = [
        [at, arm, *(told.get(rival, "—") for rival in rivals)] for (at, arm), told in gaps.items()
    ]
    heads = ("shown", "arm", *(f"points over {rival}" for rival in rivals))
    words = _in_words(result["differences"], shown) if few else ""
    return "\n\n".join(filter(None, [*tables, table(heads, rows), words]))


def _synthesis_cost(result: Result) -> str:
    """What each arm reaches, what its images cost, and what the same costs by DeepInversion."""
    rows = []
    for row in result["summary"]:
        own = [one for one in result["rows"] if one["arm"] == row["arm"]]
        passes = statistics.mean(one["synthesis_passes"] for one in own) / 1e6
        rows.append([row["arm"], accuracy(row), f"{passes:.2f}", f"{own[0]['images']:,}"])
    made = table(("arm", "accuracy, %", "million passes of the teacher", "images"), rows)
    gaps = [
        [
            f"{gap['fast']} over {gap['against']}",
            _gained(gap),
            f"{gap['passes']:.0f}",
            f"{gap['seconds']:.0f}",
        ]
        for gap in result.get("compared", ())
        if gap["fast"] == "fast-10" and "low" in gap
    ]
    heads = ("arm", "points gained (95 %, over seeds)", "times fewer passes", "times fewer seconds")
    told = (
        "Passes are images shown to the teacher and gradients that went back to them, of synthesis "
        "alone; fast-meta's first batches are counted, as they are shown as well."
    )
    return "\n\n".join([*_setting(result), told, made, *([table(heads, gaps)] if gaps else [])])


def _weights(result: Result) -> str:
    """Arms at wrong weights, and how far they lie apart by either combination."""
    rows = [
        [name, *(_bounded(figures[figure]) for figure in ("spread", "worst", "mean"))]
        for name, figures in result.get("robustness", {}).items()
    ]
    heads = ("of five weights, in points (95 %, over seeds)", "best less worst", "worst", "mean")
    return "\n\n".join([_sources(result), *([table(heads, rows)] if rows else [])])


def _bounded(told: Sequence[float]) -> str:
    mean, low, high = (f"{100 * value:.1f}".replace("-", MINUS) for value in told)
    return f"{mean} ({low} to {high})"


def _each(result: Result) -> str:
    """One table of few arms, whatever they were shown."""
    rows = [
        [row["at"], row["arm"], accuracy(row), percent(row["agreement"])]
        for row in result["summary"]
    ]
    return table(("shown", "arm", "accuracy, %", "agreement"), rows)


def _first_gradients_in_words(result: Result, shown: Collection[str]) -> str:
    told = [
        f"{ratio:.2g} for {arm}" if len(shown) > 1 else f"{ratio:.2g}"
        for arm, ratio in _gradient_ratios(result, shown).items()
    ]
    if not told:
        return ""
    return (
        "At the published weight, its first gradient over that of the labels, in length: "
        f"{', '.join(told)}."
    )


def _gradient_ratios(result: Result, shown: Collection[str]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in result["rows"]:
        if row.get("weight") and row["teacher"] == "trained" and row["arm"] in shown:
            found.setdefault(row["arm"], []).append(1 / row["weight"])
    return {arm: statistics.mean(ratios) for arm, ratios in found.items()}


def _in_words(differences: Sequence[Mapping[str, Any]], shown: Collection[str]) -> str:
    """Say of each arm which rivals it is above, below, or not told apart from."""
    told: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in differences:
        if row["arm"] in shown:
            side = "above" if row["low"] > 0 else "below" if row["high"] < 0 else _UNDECIDED
            # The interval of one seed is over its images alone.
            at = f"{row['at']} (one seed)" if row["seeds"] == 1 else row["at"]
            sides = told.setdefault((row["arm"], at), {})
            sides.setdefault(side, []).append(row["over"])
    lines = ["In words; above and below where the interval leaves zero out:", ""]
    for (arm, at), sides in told.items():
        parts = [f"{side} {_listed(sides[side])}" for side in _SIDES if side in sides]
        lines.append(f"* {f'{arm}, ' if len(shown) > 1 else ''}{at}: {'; '.join(parts)}.")
    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _first_gradients(result: Result, shown: Collection[str]) -> str:
    """How long an objective's first gradient is at its published weight, for the labels' of 1."""
    rows = [[arm, f"{ratio:.2g}"] for arm, ratio in _gradient_ratios(result, shown).items()]
    heads = ("arm, at its published weight", "its first gradient over that of the labels")
    return table(heads, rows) if rows else ""


def _repaired(result: Result) -> str:
    """Accuracy by arm and magnitude, and how the gain over labels alone grows with it."""
    magnitudes = dict.fromkeys(str(row["at"]) for row in result["rows"])
    reached = {(str(row["at"]), row["arm"]): row for row in result["summary"]}
    rows = []
    for arm in dict.fromkeys(row["arm"] for row in result["rows"]):
        found = [reached.get((at, arm)) for at in magnitudes]
        cells = ["—" if row is None else accuracy(row).partition(" (")[0] for row in found]
        gap = result.get("slopes", {}).get(arm)
        slope = "—"
        if gap is not None:
            slope = f"{points(gap['mean'])} ({points(gap['low'])} to {points(gap['high'])})"
        rows.append([arm, *cells, slope])
    seeds = min(row["seeds"] for row in result["summary"])
    at = f"accuracy, % ({seeds} seeds), at magnitude"
    heads = (at, *magnitudes, "points a unit over labels alone")
    return "\n\n".join([*_setting(result), table(heads, rows)])


def _translation(result: Result) -> str:
    """BLEU of every arm over its seeds, and how far from the arm it is compared with."""
    shown = {row["arm"] for row in result["summary"]}
    gaps = {gap["arm"]: gap for gap in result.get("gaps", ())}
    rows = []
    for arm in dict.fromkeys(row["arm"] for row in result["rows"] if row["arm"] in shown):
        runs = [row for row in result["rows"] if row["arm"] == arm]
        scores = [row["bleu"] for row in runs]
        sd = f" {PLUS_MINUS} {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        spent = [row["cpu_seconds"] for row in runs if row["cpu_seconds"] is not None]
        cells = [
            f"{statistics.mean(scores):.1f}{sd}",
            str(len(runs)),
            f"{statistics.mean(spent):,.0f}" if spent else "—",
        ]
        gap = gaps.get(arm)
        if gap is None:
            rows.append([arm, *cells, "—", "—"])
            continue
        interval = f"{gap['gap']:+.1f} ({gap['low']:+.1f} to {gap['high']:+.1f})"
        rows.append([arm, *cells, interval.replace("-", MINUS), gap["against"]])
    told = _told(result["setting"])
    told += [
        "sacrebleu " + name for name in dict.fromkeys(row["signature"] for row in result["rows"])
    ]
    heads = (
        "arm",
        "BLEU",
        "seeds",
        "seconds of one thread",
        "gap (95 %, over sentences)",
        "against",
    )
    return f"{', '.join(told)}.\n\n{table(heads, rows)}"


def _continual(result: Result) -> str:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault(row["arm"], []).append(row)
    rows = []
    for arm, runs in sorted(groups.items(), key=lambda item: -_mean(item[1], "accuracy")):
        parts = [f"{100 * _mean(runs, f'{part}_accuracy'):.1f}" for part in ("old", "new")]
        found = [run["accuracy"] for run in runs]
        sd = statistics.stdev(found) if len(found) > 1 else None
        rows.append([arm, *parts, spread(statistics.mean(found), sd, len(found))])
    heads = ("beside the new digits", "old, %", "new, %", "all ten, %")
    return "\n\n".join([*_setting(result), table(heads, rows)])


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.mean(row[name] for row in rows)


TABLES: Mapping[str, Callable[[Result], str]] = {
    "main_job": _sources,
    "main_job_resnet56": _sources,
    "main_job_mobilenet": _sources,
    "sources_digits": _sources,
    "sources_cifar10": _sources,
    "rdskd_weights": _weights,
    "digits": _digits,
    "objectives_digits": _objectives,
    "objectives_cifar10": _objectives,
    "knowledge_adjustment": _objectives,
    "systems_cifar10": _objectives,
    "autoaugment_kd": _repaired,
    "translation": _translation,
    "translation_large": _translation,
    "continual": _continual,
    "synthesis_cost": _synthesis_cost,
    "lcw": _lcw,
    "lcw_cifar10": _lcw,
}
