"""A queue of trainings that several calls share: in order, within a time limit, resumed at will.

Each entry is one training. A row is written as it is finished, and what has a row is not run
again; an entry that ran out of time is gone on with by the next call that works in the same folder.
"""

import fcntl
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import versions

# Seconds between two looks for an entry that is free.
_PATIENCE = 2.0

Made = dict[str, Any]


class OutOfTimeError(Exception):
    """The limit of this call is reached; the checkpoint holds what was done."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where this call works, and until when.

    Args:
        question: what the rows answer.
        batch_size: of every training.
        stand_ins: networks in place of others, in a rehearsal.
        train: labelled images to train on.
        test: to judge by.
        public: the folder of public weights.
        toy: rehearse on a CPU.
    """

    question: str
    batch_size: int
    stand_ins: Mapping[str, str]
    train: str
    test: str
    public: Path
    work: Path
    results: Path
    deadline: float
    toy: bool = False

    def watch(self, steps: int, line: Made) -> None:
        """Stop the training when the time is up; its checkpointer has saved a moment ago."""
        if time.monotonic() > self.deadline:
            raise OutOfTimeError

    def rows(self) -> dict[str, Made]:
        """Return what has been done, by name."""
        if not self.results.exists():
            return {}
        rows = json.loads(self.results.read_text(encoding="utf-8"))["rows"]
        return {row["name"]: row for row in rows}

    def add(self, row: Made) -> None:
        """Write a row beside those that other calls have written meanwhile."""
        with self.results.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            rows = [*(self.rows() | {row["name"]: row}).values()]
            whole = {"question": self.question, "versions": versions(), "rows": rows}
            part = self.results.with_suffix(".part")
            part.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            part.replace(self.results)

    def run(self, verb: Callable[..., Made], name: str, steps: int, **asked: Any) -> Made:
        """Carry out one training, or go on with it."""
        return verb(
            **asked,
            out=self.work / name.replace(" -> ", "-").replace(": ", "-").replace(" ", "-"),
            eval=self.test,
            steps=2 if self.toy else steps,
            batch_size=8 if self.toy else self.batch_size,
            device="cpu" if self.toy else "cuda",
            resume=True,
            checkpoint_seconds=20.0,
            watch=self.watch,
        )

    def net(self, name: str) -> str:
        return f"builtin/{self.stand_ins.get(name, name) if self.toy else name}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One figure of the queue, and the entries that must have been there before."""

    name: str
    work: Callable[[Bench], Made]
    needs: tuple[str, ...] = ("loop",)


def go_on(bench: Bench, queue: Sequence[Entry]) -> bool:
    """Work on the queue until it is done or the time is up; return whether nothing failed."""
    failed = set[str]()
    while (entry := _next_free(bench, queue, failed)) is not None:
        if entry == "wait":
            time.sleep(_PATIENCE)
    return not failed


def _next_free(bench: Bench, queue: Sequence[Entry], failed: set[str]) -> str | None:
    """Carry out the first entry that can be and return its name.

    Returns:
        "wait" where all that is left hangs on what other calls do; None at the end.
    """
    waiting = False
    for entry in queue:
        done = bench.rows()
        if time.monotonic() > bench.deadline:
            return None
        if entry.name in done or entry.name in failed:
            continue
        if failed & {*entry.needs}:
            failed.add(entry.name)  # and so what hangs on it
            continue
        lock = bench.work / f"{entry.name.replace(' ', '-')}.lock"
        with _held_alone(lock) as held:
            if not held or not set(entry.needs) <= done.keys():
                waiting = True
                continue
            if entry.name in bench.rows():
                continue
            if not _carry_out(bench, entry):
                failed.add(entry.name)
            return entry.name
    return "wait" if waiting else None


def _carry_out(bench: Bench, entry: Entry) -> bool:
    """Write the row of an entry; return whether it could be made."""
    began = time.monotonic()
    try:
        made = entry.work(bench)
    except OutOfTimeError:
        print(f"{entry.name}: out of time, to be gone on with", flush=True)
        return True
    except Exception:  # the others shall not wait for another day because of it
        traceback.print_exc()
        print(f"{entry.name}: failed", flush=True)
        return False
    seconds = time.monotonic() - began
    bench.add({"name": entry.name, "wall_seconds": seconds, **made})
    figure = made.get("student_accuracy", made.get("bleu"))
    print(f"{entry.name}: {figure} in {seconds:.0f} s", flush=True)
    return True


@contextmanager
def _held_alone(path: Path) -> Iterator[bool]:
    """Hold a lock unless another call does; the system lets go of it when this process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
