"""Writes measured figures into the pages, and from nowhere but benchmarks/results/*.json.

    python docs/figures.py

Parts of pages are marked (see marked.py):
    figures: cifar10    the table of one results file; where it is not there, which script prints it
    figures: cifar10: full, noise   of a distillation benchmark, these arms only
    figures: all        every results file with its question
    figures: summary    the short table of the README
    figures: systems    the published systems, their claims and our figures
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import arm_tables
import marked
import part_tables
import quantization_tables
import saliency_table
import training_tables
from cells import RESULTS, Result, by_host, table
from short_table import summary
from system_table import systems

SCRIPTS = marked.ROOT / "benchmarks"
_TABLES = {
    **arm_tables.TABLES,
    **part_tables.TABLES,
    **training_tables.TABLES,
    **saliency_table.TABLES,
    **quantization_tables.TABLES,
}


def figures(argument: str) -> str:
    """Return the table of one results file, of "all", the "summary", or the "systems"."""
    name, _, chosen = argument.partition(": ")
    if name == "all":
        return "\n\n".join(_section(path.stem) for path in sorted(RESULTS.glob("*.json")))
    if name == "summary":
        return summary()
    if name == "systems":
        return systems()
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return f"Not measured yet; `benchmarks/{_script(name)}` prints these figures."
    result = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    if chosen:
        arms = _arms_of(chosen, {row["arm"] for row in result["summary"]})
        result["summary"] = [row for row in result["summary"] if row["arm"] in arms]
        missing = [arm for arm in arms if arm not in {row["arm"] for row in result["summary"]}]
        parts = [f"Not measured yet: {', '.join(missing)}."] if missing else []
    hosts = by_host(result)
    tables = []
    for host, made in hosts.items():
        if made.get("summary", True):
            tables += [f"Host: {host}."] if len(hosts) > 1 else []
            tables.append(_table_of(name, made))
    return "\n\n".join([*tables, *parts, _source(name, result)])


MAKERS: marked.Makers = {"figures": figures}


def _arms_of(chosen: str, known: Collection[str]) -> list[str]:
    """Return the arms that a list names; a name may have commas of its own."""
    arms, parts = [], chosen.split(", ")
    while parts:
        lengths = [n for n in range(len(parts), 0, -1) if ", ".join(parts[:n]) in known] or [1]
        arms.append(", ".join(parts[: lengths[0]]))
        parts = parts[lengths[0] :]
    return arms


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
    hosts = list(by_host(result))
    made += [f"host {hosts[0]}"] if len(hosts) == 1 else []
    return f"`benchmarks/{_script(name)}`" + (f", {', '.join(made)}." if made else ".")


def _table_of(name: str, result: Result) -> str:
    if name in _TABLES:
        return _TABLES[name](result)
    if "summary" in result:
        return arm_tables.arms(result)
    return _plain_rows(result.get("rows", ()))


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


if __name__ == "__main__":
    marked.write(MAKERS)
