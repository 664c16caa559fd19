"""The folder of a run: its files, and how they survive an interruption.

Every file is replaced atomically, so that it is always complete. There is one checkpoint file per
stage, for any number of processes; when a run resumes, the metrics log is truncated to the
checkpoint.
"""

import contextlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch

from doublure.core.optional import require
from doublure.data.checkpoints import DAMAGE, first_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RECIPE, SUMMARY, METRICS, LOG = "recipe.toml", "summary.json", "metrics.jsonl", "log.txt"
# The initialisation of the student.
BEGINNING = "beginning.json"
CHECKPOINT, TENSORBOARD = "checkpoint", "tensorboard"
_PART = ".part"
MAKE_ROOM = "free disk space, then use --resume"
# Files of a run that was interrupted before its recipe was written.
_BEFORE_RECIPE = {CHECKPOINT, LOG}


class RunFolderError(ValueError):
    """A run folder cannot be used; the message has the reason and a remedy."""


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file atomically, also in case of a power failure."""
    part = path.with_name(path.name + _PART)
    raw = data.encode() if isinstance(data, str) else data
    with _report_disk_errors(path, "what was there before is intact", part):
        with part.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, locked by one process until it is closed.

    Args:
        record: the file that is written first and identifies the folder.
        held: the open lock, once there is one.
    """

    path: Path
    record: str = RECIPE
    held: list[int] = field(default_factory=list, compare=False, repr=False)

    def close(self) -> None:
        """Release the lock."""
        while self.held:
            os.close(self.held.pop())

    def _hold(self) -> None:
        """Lock the folder; the end of the process also releases the lock.

        Raises:
            RunFolderError: another process uses the folder.
        """
        if self.held or fcntl is None:
            return
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(folder)
            raise RunFolderError(
                f"another process uses {self.path}; wait for it, or choose another --out"
            ) from error
        except OSError:  # the file system has no locks
            os.close(folder)
            return
        self.held.append(folder)

    def check(self, *, resume: bool, overwrite: bool) -> bool:
        """Return whether to resume from the saved recipe; nothing is changed.

        Raises:
            RunFolderError: the folder is not empty and neither option is set, or it is not a run.
        """
        if resume and overwrite:
            raise RunFolderError("--resume and --overwrite exclude each other; choose one")
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; choose a folder for the run")
        present = {item.name for item in self.path.iterdir()} if self.path.exists() else set()
        if not present:
            return False
        if not resume and not overwrite:
            raise RunFolderError(
                f"{self.path} exists; resume it with --resume, replace it with --overwrite, or "
                f"choose another --out"
            )
        if self.record not in present and not present <= _BEFORE_RECIPE | {self.record + _PART}:
            raise RunFolderError(
                f"{self.path} is not a run; refusing to write into it: choose another --out"
            )
        self._hold()
        return resume and self.record in present

    def begin(self, *, overwrite: bool) -> None:
        """Create the folder; with `overwrite`, remove the files of an earlier run."""
        try:
            if overwrite and self.path.exists():
                # The record is removed last: until then, the folder is known to be a run.
                for item in sorted(self.path.iterdir(), key=lambda item: item.name == self.record):
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
            (self.path / CHECKPOINT).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot make {self.path}: {error.strerror}") from error
        self._hold()

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def scratch(self) -> Path:
        """The folder for data of sources that are too large for a checkpoint."""
        return self.path / CHECKPOINT

    def logging(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """Return a `say` that also appends each line to log.txt."""

        def tell(text: str) -> None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            path = self.file(LOG)
            with _report_disk_errors(path, MAKE_ROOM), path.open("a", encoding="utf-8") as file:
                file.write(f"{stamp} {text}\n")
            say(text)

        return tell

    def read_json(self, name: str) -> Any:
        """Return the value of a JSON file of the folder."""
        try:
            return json.loads(self.file(name).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise RunFolderError(f"cannot read {self.file(name)}: {error}") from error


class FolderCheckpointer:
    """Saves the state of a loop in the run's folder, at intervals of seconds or steps.

    With several processes, the first one writes for all: they share the weights, and the file has
    the stream state of each. So one file is one consistent state of all processes.

    Args:
        stage: number of the loop's stage in the recipe.
        seconds: time between two checkpoints of a single process.
        steps: steps between two checkpoints of several processes.
        gather: returns a value of every process, by rank, in the first; None elsewhere.
        taught_by: digest of the teacher; a state is restored only if it is equal.
    """

    def __init__(
        self,
        folder: RunFolder,
        stage: int,
        *,
        seconds: float = 30.0,
        steps: int | None = None,
        rank: int = 0,
        world: int = 1,
        gather: Callable[[Any], list[Any] | None] = lambda value: [value],
        taught_by: str = "",
    ) -> None:
        self.path = folder.scratch / f"stage{stage}.pt"
        self.seconds, self.steps = seconds, steps
        self._rank, self._world, self._gather = rank, world, gather
        self._taught_by = taught_by
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        if self.steps is not None:
            return step % self.steps == 0
        return time.monotonic() - self._last >= self.seconds

    def save(self, state: dict[str, Any]) -> None:
        streams = self._gather(state["stream"])
        if streams is not None:
            self._write({**state, "stream": streams, "taught_by": self._taught_by})
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:  # torch.load does not check checksums
                broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"{broken} has changed since it was written")
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
        except DAMAGE as error:
            raise RunFolderError(
                f"the checkpoint {self.path} is damaged ({first_line(error)}); "
                "restart with --overwrite"
            ) from error
        if len(state["stream"]) != self._world:
            raise RunFolderError(
                f"the checkpoint {self.path} is of {len(state['stream'])} processes, not of "
                f"{self._world}; resume with as many"
            )
        if state["taught_by"] != self._taught_by:
            raise RunFolderError(
                f"the checkpoint {self.path} learned from a teacher with other weights; restore "
                f"those, or restart with --overwrite"
            )
        return {**state, "stream": state["stream"][self._rank]}

    def _write(self, state: dict[str, Any]) -> None:
        part = self.path.with_suffix(_PART)
        intact = f"the one before it is intact: {MAKE_ROOM}"
        with _report_disk_errors(self.path, intact, part, what="the checkpoint "):
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)


class MetricsFile:
    """Appends lines of metrics to metrics.jsonl; truncated to the checkpoint when a run resumes."""

    def __init__(self, folder: RunFolder, stage: int, *, after_step: int = 0) -> None:
        self.stage = stage
        self._path = path = folder.file(METRICS)
        kept = [line for line in read_metrics(path) if _stands(line, stage, after_step)]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file: TextIO = path.open("a", encoding="utf-8")

    def __call__(self, line: Mapping[str, Any]) -> None:
        with _report_disk_errors(self._path, MAKE_ROOM):
            self._file.write(json.dumps({"stage": self.stage, **line}) + "\n")
            self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a write error has been reported already
            self._file.close()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class TensorBoard:
    """Writes the same metrics for TensorBoard; a resumed run replaces repeated steps.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: RunFolder, stage: int, *, after_step: int = 0) -> None:
        writing = require("torch.utils.tensorboard")
        path = folder.file(TENSORBOARD) / f"stage{stage}"
        self._writer = writing.SummaryWriter(str(path), purge_step=after_step + 1)

    def __call__(self, line: Mapping[str, Any]) -> None:
        metrics = {f"metrics/{name}": value for name, value in line["metrics"].items()}
        plain = {name: value for name, value in line.items() if name not in ("metrics", "step")}
        for name, value in (plain | metrics).items():
            self._writer.add_scalar(name, value, line["step"])

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics log, without a truncated last line."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _stands(line: Mapping[str, Any], stage: int, after_step: int) -> bool:
    return bool(line["stage"] != stage or line["step"] <= after_step)


@contextlib.contextmanager
def _report_disk_errors(
    path: Path, then: str, part: Path | None = None, *, what: str = ""
) -> Iterator[None]:
    """Context manager that turns disk errors into one line and removes a partial file."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        if part is not None:
            with contextlib.suppress(OSError):  # the disk has failed
                part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RunFolderError(f"cannot write {what}{path}: {reason}; {then}") from error
