"""What a person sees while a verb works, and how its result leaves.

Results go to standard output; progress, notes and errors go to standard error.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

errors = Console(stderr=True, highlight=False)
results = Console(highlight=False)


class Progression:
    """A bar with rate and time left, and lines of words above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def watch(self, steps: int, line: dict[str, Any]) -> None:
        if self._task is None:
            self._task = self._progress.add_task("", total=steps, terms="", rate="")
        shown = " ".join(f"{k} {v:.3g}" for k, v in line.items() if k not in _NOT_SHOWN)
        rate = line["images_per_second"]
        self._progress.update(
            self._task, total=steps, completed=line["step"], terms=shown, rate=f"{rate:,.0f}/s"
        )


_NOT_SHOWN = {"facts", "step", "learning_rate", "images_per_second", "seconds"}


@contextmanager
def progression() -> Iterator[Progression]:
    """Show progress on standard error while the block runs."""
    columns = (
        BarColumn(bar_width=16),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[terms]}", style="dim"),
    )
    with Progress(*columns, console=errors, transient=not errors.is_terminal) as progress:
        yield Progression(progress)


def print_json(value: Any) -> None:
    """Write one JSON object to standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def fail(reason: str) -> None:
    """Write a one-line reason to standard error."""
    errors.print(f"[bold red]error:[/] {_escaped(reason)}", soft_wrap=True)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("[", r"\[")
