"""Progress and results of a verb on the terminal.

Results go to standard output; progress, notes and errors go to standard error. With several
processes, only the first one prints, except for errors.
"""

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

import doublure

# torchrun and accelerate number the processes they start.
_RANK = os.environ.get("RANK", "0")
_SPEAKS = _RANK == "0"
# Lines are wrapped by the terminal only, so that paths survive a pipe.
errors = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not _SPEAKS)
results = Console(highlight=False, soft_wrap=True, quiet=not _SPEAKS)

# Seconds before a usually fast verb shows progress.
_PATIENCE = 2.0
# Seconds between two lines without a terminal.
_BETWEEN_LINES = 10.0
_OURS = Path(doublure.__file__).parent
# Lines of metrics for the estimate of the speed.
_LINES = 20


class Progression(Protocol):
    """Shows the progress of a verb, and messages."""

    def say(self, text: str) -> None: ...
    def watch(self, steps: int, line: dict[str, Any]) -> None: ...


class Pace:
    """Formats the progress of a run, its recent speed and the remaining time."""

    def __init__(self) -> None:
        self._seen = deque([(0, 0.0)], maxlen=_LINES)

    def __call__(self, steps: int, line: dict[str, Any]) -> str:
        """Return "done/steps, images a second, time left, loss" of a line of metrics."""
        step, seconds = line["step"], line["seconds"]
        if step <= self._seen[-1][0]:  # a new run
            self._seen = deque([(0, 0.0)], maxlen=_LINES)
        first_step, first_seconds = self._seen[0]
        self._seen.append((step, seconds))
        left = (seconds - first_seconds) / (step - first_step) * (steps - step)
        parts = [f"{step}/{steps}", f"{line['images_per_second']:,.0f}/s", f"{_time(left)} left"]
        if "loss" in line:
            parts.append(f"loss {line['loss']:.3g}")
        return "  ".join(parts)


class Bar:
    """Progress on a terminal: one bar, and messages above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._pace = Pace()
        self._task: TaskID = progress.add_task("", total=None, pace="")

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def watch(self, steps: int, line: dict[str, Any]) -> None:
        told = self._pace(steps, line)
        self._progress.update(self._task, total=steps, completed=line["step"], pace=told)


class Lines:
    """Progress in a file or a pipe: plain lines at intervals."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._last = time.monotonic()

    def say(self, text: str) -> None:
        errors.print(text, markup=False)

    def watch(self, steps: int, line: dict[str, Any]) -> None:
        told = self._pace(steps, line)
        now = time.monotonic()
        if now - self._last >= _BETWEEN_LINES or line["step"] == steps:
            self._last = now
            errors.print(told, markup=False)


@contextmanager
def progression() -> Iterator[Progression]:
    """Show progress on standard error while the block runs."""
    if not errors.is_terminal:
        yield Lines()
        return
    columns = (BarColumn(bar_width=16), TimeElapsedColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=errors) as progress:
        yield Bar(progress)


@contextmanager
def waiting(patience: float = _PATIENCE) -> Iterator[Callable[[str], None]]:
    """Show progress of a block on standard error, once it has run for this many seconds.

    Yields a callback for messages.
    """
    status = errors.status("")
    due = time.monotonic() + patience

    def tell_line(text: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _BETWEEN_LINES
            errors.print(text, markup=False)

    if not errors.is_terminal:
        yield tell_line
        return
    # Messages may come at any time, so a thread watches the clock.
    alarm = threading.Timer(patience, status.start)
    alarm.daemon = True
    alarm.start()
    try:
        yield lambda text: status.update(escape(text))
    finally:
        alarm.cancel()
        alarm.join()
        status.stop()


def print_json(value: Any) -> None:
    """Write one JSON object to standard output."""
    if _SPEAKS:
        sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def hear(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show the text of this library's warnings; those of others concern programmers only."""
    if Path(filename).is_relative_to(_OURS):
        errors.print(str(message), style="yellow", markup=False)


def fail(reason: str) -> None:
    """Write a one-line reason to standard error."""
    mark = "error:" if _SPEAKS else f"error in process {_RANK}:"
    line = Text.assemble((mark, "bold red"), " ", " ".join(reason.split()))
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)


def _time(seconds: float) -> str:
    minutes, hours = round(seconds) // 60, round(seconds) // 3600
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m{round(seconds) % 60:02}s" if minutes else f"{round(seconds)}s"
