"""How measured figures are written: shares in %, spreads over seeds, intervals, tables."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import marked

RESULTS: Path = marked.ROOT / "benchmarks" / "results"

Result = Mapping[str, Any]

MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are figures."""
    ruler = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ruler, *rows))


def length(at: str) -> str:
    """Return how long runs were, long numbers with commas."""
    return re.sub(r"\d{5,}", lambda found: f"{int(found[0]):,}", at)


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
    low, high = found["interval"]
    return f"{found['spearman']:.2f} ({low:.2f} to {high:.2f})"
