"""Tables of the quantization benchmarks: planted faults and their audits, and bits by layer."""

import statistics
from collections.abc import Sequence
from typing import Any

from cells import MINUS, PLUS_MINUS, Result, table

_ORDER = ("benign", "planted", "twin")


def worst_case(result: Result) -> str:
    """Return the versions of each network, then how often the audit raised an alarm for nothing."""
    setting, rows = result["setting"], result["rows"]
    pairs = [row for row in rows if row["part"] == "pairs"]
    alarms = [row for row in rows if row["part"] == "alarms"]
    parts = []
    if pairs:
        nets = list(dict.fromkeys(row["net"] for row in pairs))
        heads = (
            *("network", "version", "in float", "the policy loses", "random policies lose"),
            *("planted layers named", "alarms", "seeds"),
        )
        parts.append(
            f"{setting['low']} bits for the inputs of the planted layers and 8 for all others; "
            "random policies cost as much. Points of accuracy, mean and range over seeds."
        )
        parts.append(
            table(heads, [_version(pairs, net, version) for net in nets for version in _ORDER])
        )
    if alarms:
        raised = sum(row["verdict"] != "ok" for row in alarms)
        nets = list(dict.fromkeys(row["net"] for row in alarms))
        parts.append(
            f"Without a planted fault: {raised} alarms in {len(alarms)} audits of networks trained "
            f"on digits ({', '.join(nets)})."
        )
    return "\n\n".join(parts)


def _version(rows: Sequence[dict[str, Any]], net: str, version: str) -> list[str]:
    own = [row for row in rows if (row["net"], row["version"]) == (net, version)]
    lost = [100 * (row["float"] - row["policy"]) for row in own]
    random = [100 * (row["float"] - row["random_mean"]) for row in own]
    named = sum(len({*row["planted_layers"]} & {*row["vulnerable"]}) for row in own)
    planted = sum(len(row["planted_layers"]) for row in own)
    return [
        net,
        version,
        f"{100 * statistics.mean(row['float'] for row in own):.1f} %",
        _range(lost),
        _range(random),
        f"{named} of {planted}" if version == "planted" else "",
        f"{sum(row['verdict'] != 'ok' for row in own)} of {len(own)}",
        str(len(own)),
    ]


def _range(values: Sequence[float]) -> str:
    low, high = (_signed(value) for value in (min(values), max(values)))
    return f"{_signed(statistics.mean(values))} ({low} to {high})"


def _signed(value: float) -> str:
    text = f"{abs(value):.1f}"
    return f"{MINUS}{text}" if value < 0 and float(text) > 0 else text


def mixed_precision(result: Result) -> str:
    """Return accuracy by size and search."""
    rows = result["rows"]
    targets = sorted({row["target"] for row in rows})
    parts = []
    for net in dict.fromkeys(row["net"] for row in rows):
        own = [row for row in rows if row["net"] == net]
        lines = []
        for arm in dict.fromkeys(row["arm"] for row in own):
            cells = [
                _mean([r["accuracy"] for r in own if (r["target"], r["arm"]) == (target, arm)])
                for target in targets
            ]
            seconds = statistics.mean(row["search_seconds"] for row in own if row["arm"] == arm)
            lines.append([arm, *cells, f"{seconds:.2f}" if seconds else ""])
        measured = [row["sensitivity_seconds"] for row in own if row["sensitivity_seconds"]]
        seeds = len({row["seed"] for row in own})
        parts.append(
            f"**{net}**, {seeds} seeds; the sensitivity of all layers took "
            f"{statistics.mean(measured):.0f} CPU seconds, once for all sizes and searches."
        )
        heads = ("search", *(f"{target:g} bits" for target in targets), "seconds of the search")
        parts.append(table(heads, lines))
    return "\n\n".join(parts)


def _mean(shares: Sequence[float]) -> str:
    if not shares:
        return ""
    mean = f"{100 * statistics.mean(shares):.1f} %"
    return f"{mean} {PLUS_MINUS} {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else mean


TABLES = {"worst_case_quantization": worst_case, "mixed_precision": mixed_precision}
