"""How measured figures are written: shares in %, spreads over seeds, intervals, tables."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import marked

RESULTS: Path = marked.ROOT / "benchmarks" / "results"

Result = Mapping[str, Any]

# What a row from before hosts were recorded counts as.
NOT_RECORDED = "not recorded"
# Runs at equal time, or equal passes, are to have come so near to it.
NEAR = 0.03

MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def host_of(row: Mapping[str, Any]) -> str:
    """Return the kind of host that a row was made on."""
    return str(row.get("host", NOT_RECORDED))


def by_host(result: Result) -> dict[str, Result]:
    """Return what a results file says of each kind of host, of the one with most rows first.

    Lists of rows are divided; figures over all rows, which have no host, stay with each.
    """
    rows = result.get("rows", ())
    hosts = sorted(
        {host_of(row) for row in rows}, key=lambda h: -sum(host_of(r) == h for r in rows)
    )
    if len(hosts) < 2:
        return {hosts[0] if hosts else NOT_RECORDED: result}
    return {host: {name: _of(host, part) for name, part in result.items()} for host in hosts}


def _of(host: str, part: Any) -> Any:
    rows = isinstance(part, list) and all(isinstance(row, Mapping) for row in part)
    return [row for row in part if host_of(row) == host] if rows else part


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are figures."""
    ruler = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ruler, *rows))


def length(at: str) -> str:
    """Return how long runs were, long numbers with commas."""
    return re.sub(r"\d{5,}", lambda found: f"{int(found[0]):,}", at)


def asked_for(at: str) -> tuple[float, str]:
    """Return how long runs were to be, and in what unit: of "real images, 60 seconds", the end."""
    *_, amount, unit = at.split(" ")
    return float(amount.replace(",", "")), unit


def taken(result: Result, at: str, shown: Sequence[str]) -> str:
    """Return in brackets what runs at equal time took, where one of them was far from it."""
    if not at.endswith("seconds"):
        return ""
    asked, _ = asked_for(at)
    found = [
        row["seconds"] for row in result["rows"] if row.get("at") == at and row["arm"] in shown
    ]
    if all(abs(one / asked - 1) <= NEAR for one in found):
        return ""
    return f" ({min(found):.0f} to {max(found):.0f} taken)"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def spread(mean: float, sd: float | None, seeds: int) -> str:
    if sd is None or seeds < 2:
        return f"{100 * mean:.1f} (one seed)"
    return f"{100 * mean:.1f} {PLUS_MINUS} {100 * sd:.1f} ({seeds} seeds)"


def accuracy(row: Mapping[str, Any]) -> str:
    return spread(row["mean"], row["sd"], row["seeds"])


def points(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)


def interval(kept: Sequence[float]) -> str:
    return f"{100 * kept[1]:.1f} to {100 * kept[2]:.1f} %"


def ranked(found: Mapping[str, Any]) -> str:
    if found["interval"] is None:
        return f"{found['spearman']:g}"
    low, high = found["interval"]
    return f"{found['spearman']:.2f} ({low:.2f} to {high:.2f})"
