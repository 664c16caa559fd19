"""The folder of a run: what is written while a student is made, and how it survives a kill.

Every file is replaced as a whole, so that whatever stands there is complete. The checkpoint is
one file a stage, whatever the number of processes; the metrics log is cut back to it when a run
goes on.
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
# How the student's weights began.
BEGINNING = "beginning.json"
CHECKPOINT, TENSORBOARD = "checkpoint", "tensorboard"
_PART = ".part"
MAKE_ROOM = "make room, then go on with --resume"
# What a run that was killed before its recipe was written leaves behind.
_BEFORE_RECIPE = {CHECKPOINT, LOG}


class RunFolderError(ValueError):
    """A run folder cannot be used as asked; the message says what stands there and the way out."""


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that it is either as before or complete, also after a power cut."""
    part = path.with_name(path.name + _PART)
    raw = data.encode() if isinstance(data, str) else data
    with _told(path, "what was there before is intact", part):
        with part.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, and of one process at a time, until it is closed.

    Args:
        record: the file that is written first, and by which the folder is known.
        held: the open folder that keeps other processes out, once there is one.
    """

    path: Path
    record: str = RECIPE
    held: list[int] = field(default_factory=list, compare=False, repr=False)

    def close(self) -> None:
        """Let other processes in."""
        while self.held:
            os.close(self.held.pop())

    def _hold(self) -> None:
        """Keep other processes out; a kill lets them in as well.

        Raises:
            RunFolderError: another process is at work here.
        """
        if self.held or fcntl is None:
            return
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(folder)
            raise RunFolderError(
                f"another process is at work in {self.path}; wait for it, or choose another --out"
            ) from error
        except OSError:  # a file system without locks
            os.close(folder)
            return
        self.held.append(folder)

    def check(self, *, resume: bool, overwrite: bool) -> bool:
        """Return whether a saved recipe is to be gone on with; nothing is changed.

        Raises:
            RunFolderError: the folder has something in it and neither way was asked for, or it
                has something that is no run.
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
                f"{self.path} exists; go on with --resume, replace it with --overwrite, "
                "or choose another --out"
            )
        if self.record not in present and not present <= _BEFORE_RECIPE | {self.record + _PART}:
            raise RunFolderError(
                f"{self.path} is not a run; refusing to write into it: choose another --out"
            )
        self._hold()
        return resume and self.record in present

    def begin(self, *, overwrite: bool) -> None:
        """Make the folder, without what an earlier run left where that is to be overwritten."""
        try:
            if overwrite and self.path.exists():
                # The record last: as long as something is left, it is known to be a run.
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
        """Where sources keep what is too large for a checkpoint."""
        return self.path / CHECKPOINT

    def logging(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """Return `say`, with each line also at the end of log.txt."""

        def tell(text: str) -> None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            path = self.file(LOG)
            with _told(path, MAKE_ROOM), path.open("a", encoding="utf-8") as file:
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
    """Keeps the state of a loop in the run's folder, every so many seconds or steps.

    Of several processes the first one writes for all: they share the weights, and each one's
    stream is kept beside those of the others. So one file is always one moment of all of them.

    Args:
        stage: which stage of the recipe the loop belongs to.
        seconds: time between two checkpoints of a single process.
        steps: steps between two checkpoints where several processes must agree.
        gather: returns a value of every process, by rank, in the first; None elsewhere.
        taught_by: tells one teacher from another; a state is given back to its own only.
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
            with zipfile.ZipFile(self.path) as archive:  # torch.load compares no checksums
                broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"{broken} has changed since it was written")
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
        except DAMAGE as error:
            raise RunFolderError(
                f"the checkpoint {self.path} is damaged ({first_line(error)}); "
                "start afresh with --overwrite"
            ) from error
        if len(state["stream"]) != self._world:
            raise RunFolderError(
                f"the checkpoint {self.path} is of {len(state['stream'])} processes, not of "
                f"{self._world}; go on with as many"
            )
        if state["taught_by"] != self._taught_by:
            raise RunFolderError(
                f"the checkpoint {self.path} learned from a teacher with other weights; put those "
                "back, or start afresh with --overwrite"
            )
        return {**state, "stream": state["stream"][self._rank]}

    def _write(self, state: dict[str, Any]) -> None:
        part = self.path.with_suffix(_PART)
        intact = f"the one before it is intact: {MAKE_ROOM}"
        with _told(self.path, intact, part, what="the checkpoint "):
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)


class MetricsFile:
    """Appends lines of figures to metrics.jsonl; cut back to the checkpoint when a run goes on."""

    def __init__(self, folder: RunFolder, stage: int, *, after_step: int = 0) -> None:
        self.stage = stage
        self._path = path = folder.file(METRICS)
        kept = [line for line in read_metrics(path) if _stands(line, stage, after_step)]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file: TextIO = path.open("a", encoding="utf-8")

    def __call__(self, line: Mapping[str, Any]) -> None:
        with _told(self._path, MAKE_ROOM):
            self._file.write(json.dumps({"stage": self.stage, **line}) + "\n")
            self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been told of
            self._file.close()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class TensorBoard:
    """Writes the same figures for TensorBoard; what a run that goes on says again is dropped.

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
    """Return the complete lines of a metrics log; a torn last line is left out."""
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
def _told(path: Path, then: str, part: Path | None = None, *, what: str = "") -> Iterator[None]:
    """Turn what a disk says no with into one line; a part that was begun is removed."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        if part is not None:
            with contextlib.suppress(OSError):  # the disk has failed already
                part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RunFolderError(f"cannot write {what}{path}: {reason}; {then}") from error
