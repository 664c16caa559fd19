"""Common part of training commands: required options, a call with progress, the result."""

import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import typer

from doublure.cli.commands import Options
from doublure.cli.console import print_json, progression, results

# When the command began, which a budget counts from; None where none did.
BEGAN: ContextVar[float | None] = ContextVar("BEGAN", default=None)


def begin() -> None:
    """Let budgets count from now on, before anything large is imported."""
    BEGAN.set(time.perf_counter())


def run_verb(
    verb: Callable[..., dict[str, Any]], options: Options, *, json: bool
) -> dict[str, Any]:
    """Call a verb with progress, print the result, and return its summary."""
    with progression() as shown:
        summary = verb(**options, began=BEGAN.get(), say=shown.say, watch=shown.watch)
    tell(summary, options["out"], json=json)
    return summary


def exclusive(options: Options, *names: str) -> None:
    """Refuse more than one of these options."""
    given = [f"--{name.replace('_', '-')}" for name in names if name in options]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other; choose one")


def require(options: Options, *names: str) -> None:
    """Refuse steps with a budget, a recipe with networks or data, and missing arguments."""
    exclusive(options, "steps", "budget")
    missing = [f"--{name}" for name in names if name not in options]
    if "recipe" not in options and missing:
        raise typer.BadParameter(f"missing {' and '.join(missing)}, or --recipe FILE")
    if "recipe" in options and len(missing) < len(names):
        raise typer.BadParameter("--recipe has the networks and the data; remove those arguments")


def tell(summary: dict[str, Any], out: Path, *, json: bool) -> None:
    """Print the result of a run."""
    if not summary:  # only the first of several processes prints
        return
    if json:
        print_json(summary)
        return
    from doublure.tasks import TASKS

    task = next(task for task in TASKS if task.name == summary["task"])
    for role in ("teacher", "student"):
        parameters = summary[f"{role}_parameters"]
        if parameters is not None:
            scored = task.lines(summary, role)
            name = summary[f"{role}_reference"]
            results.print(f"{role:11}{name}  {parameters:,} parameters, {scored}", markup=False)
    if summary["agreement"] is not None:
        results.print(
            f"agreement  {summary['agreement']:.1%} on {summary['agreement_count']:,} "
            f"{summary['agreement_on']}"
        )
    if summary.get("student_latency_ms"):
        alone = summary["teacher_latency_ms"] / summary["student_latency_ms"]
        together = summary["student_answers_per_second"] / summary["teacher_answers_per_second"]
        results.print(
            f"speed      {alone:.2f} times the teacher's on one image, {together:.2f} times in "
            "batches, on this CPU"
        )
    for warning in summary["warnings"]:
        results.print(f"warning    {warning}", markup=False)
    results.print(
        f"steps      {summary['steps']:,} in {summary['seconds']:.0f} s "
        f"({summary['images_per_second']:,.0f} {task.words.shown}/s)"
    )
    results.print(f"report     {out / 'report.html'}", markup=False)
