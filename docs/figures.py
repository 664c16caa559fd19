"""Writes measured figures into the pages, and from nowhere but benchmarks/results/*.json.

    python docs/figures.py

Parts of pages are marked (see marked.py):
    figures: cifar10    the table of one results file; where it is not there, which script prints it
    figures: cifar10: full, noise   of a distillation benchmark, these arms only
    figures: all        every results file with its question
    figures: summary    the short table of the README
"""

import json
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import marked
from cells import (
    MINUS,
    PLUS_MINUS,
    RESULTS,
    Result,
    accuracy,
    interval,
    percent,
    points,
    ranked,
    spread,
    table,
)
from short_table import summary

SCRIPTS = marked.ROOT / "benchmarks"


def figures(argument: str) -> str:
    """Return the table of one results file, of "all" of them, or the "summary" of the README."""
    name, _, chosen = argument.partition(": ")
    if name == "all":
        return "\n\n".join(_section(path.stem) for path in sorted(RESULTS.glob("*.json")))
    if name == "summary":
        return summary()
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return f"Not measured yet; `benchmarks/{_script(name)}` prints these figures."
    result = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    if chosen:
        arms = chosen.split(", ")
        result["summary"] = [row for row in result["summary"] if row["arm"] in arms]
        missing = [arm for arm in arms if arm not in {row["arm"] for row in result["summary"]}]
        parts = [f"Not measured yet: {', '.join(missing)}."] if missing else []
    return "\n\n".join([_table_of(name, result), *parts, _source(name, result)])


MAKERS: marked.Makers = {"figures": figures}


def _section(name: str) -> str:
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return f"## {result.get('question', name)}\n\n{figures(name)}"


def _script(name: str) -> str:
    """Return the script that prints a results file: the longest name that begins like it."""
    found = [path for path in SCRIPTS.glob("*.py") if name.startswith(path.stem)]
    return max(found, key=lambda path: len(path.stem)).name if found else f"{name}.py"


def _source(name: str, result: Result) -> str:
    versions = result.get("versions", {})
    made = [f"{part} {versions[part]}" for part in ("python", "torch") if part in versions]
    return f"`benchmarks/{_script(name)}`" + (f", {', '.join(made)}." if made else ".")


def _table_of(name: str, result: Result) -> str:
    if name in _TABLES:
        return _TABLES[name](result)
    if "summary" in result:
        return _arms(result)
    return _plain_rows(result.get("rows", ()))


def _arms(result: Result) -> str:
    """The table of a distillation benchmark: arms at equal steps, and at equal time."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["summary"]:
        groups.setdefault(str(row.get("at", "")), []).append(row)
    parts = _setting(result)
    for at, rows in groups.items():
        curves = {row["arm"]: _curve(result, at, row["arm"]) for row in rows}
        early = max(map(len, curves.values()))
        timed = at.endswith("seconds")
        made = [
            [
                row["arm"],
                *(curves[row["arm"]] or ["—"] * early),
                accuracy(row),
                percent(row["agreement"]),
                *([f"{row['steps']:,.0f}"] if timed else []),
            ]
            for row in rows
        ]
        heads = [
            f"at {at}" if at else "arm",
            *(f"after {100 * (i + 1) / (early + 1):.0f} %" for i in range(early)),
        ]
        heads += ["accuracy, %", "agreement", *(["steps"] if timed else [])]
        parts.append(table(heads, made))
    return "\n\n".join(parts)


def _setting(result: Result) -> list[str]:
    """Return what all rows share as a paragraph, or nothing."""
    told = [f"{key.replace('_', ' ')} {value}" for key, value in result["setting"].items()]
    return [f"{', '.join(told)}."] if told else []


def _curve(result: Result, at: str, arm: str) -> list[str]:
    """Return the learning curve of an arm before its end, in %, as means over its seeds."""
    rows = [
        row for row in result.get("rows", ()) if (str(row.get("at", "")), row["arm"]) == (at, arm)
    ]
    curves = [
        # A length that does not divide evenly is looked at twice in its last steps.
        [point["accuracy"] for point in row.get("curve", ()) if point["step"] < 0.99 * row["steps"]]
        for row in rows
    ]
    whole = [curve for curve in curves if len(curve) == max(map(len, curves))]
    return [f"{100 * statistics.mean(points):.1f}" for points in zip(*whole, strict=True)]


def _digits(result: Result) -> str:
    """The same with what each arm keeps of its teacher's accuracy."""
    rows = [[name, percent(kept[0]), interval(kept)] for name, kept in result["kept"].items()]
    heads = ("arm", "of its teacher's accuracy", "95 % interval over seeds")
    return f"{_arms(result)}\n\n{table(heads, rows)}"


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
    tables = [_arms(result), _first_gradients(result, shown)]
    if not gaps:
        return "\n\n".join(filter(None, tables))
    rows = [
        [at, arm, *(told.get(rival, "—") for rival in rivals)] for (at, arm), told in gaps.items()
    ]
    heads = ("shown", "arm", *(f"points over {rival}" for rival in rivals))
    return "\n\n".join(filter(None, [*tables, table(heads, rows)]))


def _first_gradients(result: Result, shown: Collection[str]) -> str:
    """How long an objective's first gradient is at its published weight, for the labels' of 1."""
    found: dict[str, list[float]] = {}
    for row in result["rows"]:
        if row.get("weight") and row["teacher"] == "trained" and row["arm"] in shown:
            found.setdefault(row["arm"], []).append(1 / row["weight"])
    rows = [[arm, f"{statistics.mean(ratios):.2g}"] for arm, ratios in found.items()]
    heads = ("arm, at its published weight", "its first gradient over that of the labels")
    return table(heads, rows) if rows else ""


def _repaired(result: Result) -> str:
    """The same with how the gain over labels alone grows with the magnitude."""
    rows = [
        [arm, f"{points(gap['mean'])} ({points(gap['low'])} to {points(gap['high'])})"]
        for arm, gap in result.get("slopes", {}).items()
    ]
    heads = ("arm", "points over labels alone, for each unit of magnitude")
    return f"{_arms(result)}\n\n{table(heads, rows)}" if rows else _arms(result)


def _evaluated(result: Result) -> str:
    rows = [
        [
            row["network"],
            f"{row['parameters']:,}",
            f"{100 * row['accuracy']:.2f} %",
            f"{row['correct']:,} of {row['count']:,}",
            percent(row["expected"]),
        ]
        for row in result["rows"]
    ]
    return table(("network", "parameters", "accuracy", "right", "known of it"), rows)


def _int8(result: Result) -> str:
    rows = []
    for row in result["rows"]:
        by = {
            item["images"]: item
            for item in reversed(row.get("calibrated", ()))
            if item["settings"]["method"] == "minmax"
        }
        changes = [
            f"{points(by[kind]['mean_points'])} {PLUS_MINUS} {by[kind]['spread_points']:.2f}"
            if kind in by
            else "—"
            for kind in ("real", "shaders", "noise")
        ]
        speed = row["speed"]
        rows.append(
            [
                row["network"],
                *changes,
                f"{row['bytes_ratio']:.2f}",
                f"{speed['int8_one_image']:.1f}",
                f"{speed['int8_in_batches']:.1f}",
            ]
        )
    heads = (
        *("network", "points, real images", "points, shaders", "points, noise"),
        *("bytes", "speed, one image", "speed, batches"),
    )
    told = (
        "Change of accuracy in points when float32 ONNX becomes int8, by what it was calibrated "
        "on (512 images, three seeds); bytes and speed as a multiple of float32 ONNX, on one "
        "thread. A dash: not trained, so there is no accuracy to lose."
    )
    return f"{told}\n\n{table(heads, rows)}"


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
    told = [f"{key.replace('_', ' ')} {value}" for key, value in result["setting"].items()]
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


def _augmentation(result: Result) -> str:
    rates = result["images_per_second"]
    rows = [[name, f"{rate['median']:,}"] for name, rate in rates.items()]
    made = table(("setting, 32 x 32 in batches of 256, one thread", "images a second"), rows)
    composed = result["composing"]["ratio"]
    lines = [f"* Speed of composing operations, against one pass each: {composed} times."]
    if "kornia" in result:
        kornia = result["kornia"]
        lines.append(f"* Speed against kornia {kornia['version']}: {kornia['ratio']} times.")
    return f"{made}\n\n" + "\n".join(lines)


def _shaders(result: Result) -> str:
    parts = []
    coverage = result.get("coverage")
    if isinstance(coverage, Mapping):
        rows = [
            [
                name,
                f"{row['relative_entropy']:.3f} {PLUS_MINUS} {row['spread']:.3f}",
                percent(row["smallest_class_share"]),
            ]
            for name, row in coverage["sources"].items()
        ]
        told = (
            f"What a CIFAR-10 ResNet-20 calls {coverage['images']:,} raw images of each source, "
            f"{coverage['seeds']} seeds; 1 is an even share of every class."
        )
        made = table(("source", "entropy of its classes", "smallest class"), rows)
        parts.append(f"{told}\n\n{made}")
    agreement = result.get("agreement")
    if isinstance(agreement, Mapping):
        within, mean = (
            agreement[key] for key in ("worst_pixels_within_tolerance", "worst_mean_difference")
        )
        parts.append(
            f"OpenGL ({agreement['renderer']}) against torch, the worst of all families: "
            f"{100 * within:.2f} % of the pixels within 2/255; the largest mean difference of an "
            f"image is {255 * mean:.2f}/255."
        )
    speed = result.get("speed")
    if isinstance(speed, Mapping):
        rows = [
            [str(size), *(f"{rate:,}" for rate in row["images_per_second"].values())]
            for size, row in speed["sizes"].items()
        ]
        names = next(iter(speed["sizes"].values()))["images_per_second"]
        heads = ("images a second at size", *names)
        parts.append(table(heads, rows))
    return "\n\n".join(parts)


def _loop(result: Result) -> str:
    rows = [
        [
            row["pair"],
            row["precision"],
            f"{row['ratio']:.2f}",
            f"{row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f}",
        ]
        for row in result["rows"]
    ]
    told = "Images a second of `distill` over those of a hand-written loop with the same networks."
    return f"{told}\n\n{table(('networks', 'precision', 'ratio', 'range'), rows)}"


def _resume(result: Result) -> str:
    return (
        f"{result['of']} runs of {result['steps']} steps were killed {result['kills']} times at "
        f"random instants ({result['while_training']} of them between the first step and the "
        f"last) and gone on with; {result['same_students']} of {result['of']} students "
        "are the same, byte for byte, as without a kill."
    )


def _pool_cost(result: Result) -> str:
    pool = result["pool"]
    return (
        f"Drawing {pool['draws']:,} images, asking the teacher about them and keeping "
        f"{pool['images']:,}: {result['fill_seconds']:.0f} seconds of one thread. A step of "
        f"{result['batch_size']} images: {1000 * result['step_seconds']:.0f} milliseconds. Share "
        f"of the pool in {result['steps']:,} steps: {percent(result['share'])}."
    )


def _score(result: Result) -> str:
    """How well each predictor, fitted on one task, ranks the transfer sets of the other."""
    rows = [
        [predictor, way, *(ranked(found[key]) for key in ("all", "without_trivial"))]
        for predictor, ways in result["across_tasks"].items()
        for way, found in ways.items()
    ]
    heads = ("predictor", "fitted on, tested on", "Spearman, all sets", "without trivial sets")
    sets = " and ".join(f"{count} of {task}" for task, count in result["sets"].items())
    told = (
        f"Transfer sets: {sets}. Rank correlation of the score before training with the accuracy "
        "after it, with the interval of 95 % over resampled sets. `entropy` is class entropy "
        "alone; `prior` is pair coverage, the smallest class and the BatchNorm distance, named "
        "before anything was measured, and is what `score` carries; `chosen` is what fits the "
        "fitting task best."
    )
    errors = result["across_tasks"][result["shipped"]["predictor"]].values()
    reach = max(found["error_of_nine_in_ten"] for found in errors)
    last = (
        f"It ranks. Of the accuracy itself it says little: nine in ten predictions from the other "
        f"task lie within {reach:.2f} of the share of accuracy that was reached."
    )
    return f"{told}\n\n{table(heads, rows)}\n\n{last}"


def _scored(result: Result) -> str:
    rows = [
        [
            row["name"].replace("|", "\\|"),
            str(row["verdict"]),
            f"{row['fed']['class_entropy']:.2f}",
            f"{row['fed']['pair_coverage']:.2f}",
            percent(statistics.mean(row["accuracy"])),
        ]
        for row in sorted(result["rows"], key=lambda row: -statistics.mean(row["accuracy"]))
    ]
    heads = ("transfer set \\| what is around it", "verdict", "class entropy", "pairs", "accuracy")
    told = (
        f"{len(rows)} transfer sets, scored as fed, then taught to a {result['student']} for "
        f"{result['steps']} steps; the teacher is right on {percent(result['teacher_accuracy'])}."
    )
    return f"{told}\n\n{table(heads, rows)}"


def _plain_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return any list of rows as a table of those of its values that are texts or numbers."""
    if not rows:
        return "No rows yet."
    heads = [key for key, value in rows[0].items() if isinstance(value, str | int | float)]
    return table(
        [key.replace("_", " ") for key in heads],
        [[_cell(row.get(key)) for key in heads] for row in rows],
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "—"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


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


_TABLES: Mapping[str, Callable[[Result], str]] = {
    "evaluate_cifar10": _evaluated,
    "int8": _int8,
    "augmentation": _augmentation,
    "digits": _digits,
    "objectives_digits": _objectives,
    "autoaugment_kd": _repaired,
    "translation": _translation,
    "translation_large": _translation,
    "shaders": _shaders,
    "continual": _continual,
    "lcw": _lcw,
    "lcw_cifar10": _lcw,
    "loop": _loop,
    "resume": _resume,
    "pool_cost": _pool_cost,
    "score": _score,
    "score_digits": _scored,
    "score_cifar10": _scored,
}


if __name__ == "__main__":
    marked.write(MAKERS)
