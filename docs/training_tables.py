"""Tables of how a network is trained, by results file: BatchNorm, its input, steps at half size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cells import MINUS, Result, percent, points, table

_INTERVAL = "difference, points (95 % interval)"


def difference(test: Mapping[str, Any]) -> str:
    """Return a paired difference in points with its interval."""
    low, high = (f"{100 * test[end]:+.2f}".replace("-", MINUS) for end in ("low", "high"))
    return f"{points(100 * test['mean'])} ({low} to {high})"


def _batch_norm(result: Result) -> str:
    return "\n\n".join(
        [
            _mechanism(result),
            *(_compared(result, "table", data) for data in ("digits", "cifar10")),
            *(_curve(result, data) for data in ("digits", "cifar10")),
            _widths(result),
        ]
    ).strip()


def _mechanism(result: Result) -> str:
    rows = [
        [f"{row['data']}, {row['net']}", f"{row['scale']:g}", *(_range(row[k]) for k in _EXACT)]
        for row in result.get("mechanism", ())
    ]
    told = "At step 0, as multiples of scale 1, smallest and largest; float64, without eps."
    return f"{told}\n\n{table(('', 'scale', *_EXACT), rows)}"


_EXACT = ("logits", "convolutions and head", "gamma", "beta")


def _range(ends: Sequence[float]) -> str:
    low, high = (f"{end:.6f}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _compared(result: Result, part: str, data: str) -> str:
    tests = [t for t in result.get("tests", ()) if (t["part"], t["data"]) == (part, data)]
    if not tests:
        return f"{data}: not measured yet."
    shown = []
    for arm in ("standard", *(test["arm"] for test in tests)):
        rows = _rows(result, part, data, arm)
        test = next((t for t in tests if t["arm"] == arm), None)
        shown.append(
            [
                arm,
                f"{rows[0]['rate']:g}",
                percent(_mean(rows, "accuracy")),
                "" if test is None else difference(test),
                "" if test is None else f"{test['p']:.2g}",
                f"{_mean(rows, 'scale_mean'):.3f}, {_mean(rows, 'scale_sd'):.3f}",
            ]
        )
    first = tests[0]
    told = (
        f"{data}, {first['net']}, {first['steps']:,} updates, {first['pairs']} paired seeds; p is "
        "of the one-sided test that the arm is better."
    )
    heads = ("arm", "rate", "accuracy", _INTERVAL, "p", "scales at the end: mean, spread")
    return f"{told}\n\n{table(heads, shown)}"


def _curve(result: Result, data: str) -> str:
    rows = [row for row in result["rows"] if (row["part"], row["data"]) == ("curve", data)]
    arms = [arm for arm in dict.fromkeys(row["arm"] for row in rows) if arm != "standard"]
    shown = []
    for steps in sorted({row["steps"] for row in rows}):
        at = [row for row in rows if row["steps"] == steps]
        baseline = {row["seed"]: row["accuracy"] for row in at if row["arm"] == "standard"}
        if not baseline:
            continue
        shown.append(
            [
                f"{steps:,}",
                percent(sum(baseline.values()) / len(baseline)),
                *(_against(result, at, data, steps, arm, baseline) for arm in arms),
                str(len(baseline)),
            ]
        )
    if not shown:
        return ""
    told = f"{data}: the same over the number of updates; differences in points."
    return f"{told}\n\n{table(('updates', 'standard', *arms, 'seeds'), shown)}"


def _against(
    result: Result,
    at: Sequence[Mapping[str, Any]],
    data: str,
    steps: int,
    arm: str,
    baseline: Mapping[int, float],
) -> str:
    where = ("curve", data, steps, arm)
    for test in result.get("tests", ()):
        if (test["part"], test["data"], test["steps"], test["arm"]) == where:
            return difference(test)
    paired = [r["accuracy"] - baseline[r["seed"]] for r in at if r["arm"] == arm]
    return points(100 * sum(paired) / len(paired)) if paired else "—"


def _widths(result: Result) -> str:
    tests = [test for test in result.get("tests", ()) if test["part"] == "widths"]
    if not tests:
        return ""
    rows = [
        [test["net"], f"{test['steps']:,}", percent(test["accuracy"]), difference(test)]
        for test in tests
    ]
    told = f"Other networks, {tests[0]['data']}, {tests[0]['pairs']} seeds, the same rates."
    return f"{told}\n\n{table(('network', 'updates', 'revisited', _INTERVAL), rows)}"


def _batch_norm_input(result: Result) -> str:
    shown = []
    for arm in ("told", "learned", "told, changed", "learned, changed"):
        rows = [row for row in result["rows"] if row["arm"] == arm]
        test = next((t for t in result.get("tests", ()) if t["arm"] == arm), None)
        if rows:
            shown.append(
                [
                    arm,
                    percent(_mean(rows, "accuracy")),
                    "" if test is None else difference(test),
                    percent(_mean(rows, "on_the_others")),
                    f"{_average(rows, 'mean'):.3f}, {_average(rows, 'std'):.3f}",
                ]
            )
    heads = ("mean and std", "accuracy", _INTERVAL, "on the other images", "mean, std at the end")
    told = (
        '"Changed" networks are trained and judged on 0.3 x + 0.4 of the pixels; told ones keep '
        "the mean and std of x. The other images are those that the network was not trained on."
    )
    return f"{told}\n\n{table(heads, shown)}"


def _interleaved(result: Result) -> str:
    rows = [
        [
            row["net"],
            row["arm"],
            f"{row['time']:.2f}",
            percent(row["accuracy"]),
            difference(row) if "low" in row else "",
            str(row["seeds"]),
        ]
        for row in result.get("tests", ())
    ]
    told = (
        f"CIFAR-10, {result['setting']['steps']:,} steps of {result['setting']['batch_size']} "
        "images; time is the processor's, as a multiple of that of all steps at full size."
    )
    return f"{told}\n\n{table(('network', 'arm', 'time', 'accuracy', _INTERVAL, 'seeds'), rows)}"


def _rows(result: Result, part: str, data: str, arm: str) -> list[Mapping[str, Any]]:
    where = (part, data, arm)
    return [row for row in result["rows"] if (row["part"], row["data"], row["arm"]) == where]


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def _average(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(row[name][0] for row in rows) / len(rows)


TABLES: Mapping[str, Callable[[Result], str]] = {
    "batch_norm": _batch_norm,
    "batch_norm_input": _batch_norm_input,
    "interleaved": _interleaved,
}
