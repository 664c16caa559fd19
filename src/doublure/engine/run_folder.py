"""The folder of a run: its files, and how they survive an interruption.

Every file is replaced atomically, so that it is always complete. There is one checkpoint file per
stage, for any number of processes; when a run resumes, the metrics log is truncated to the
checkpoint.
"""

import contextlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from doublure.core.optional import require
from doublure.data.checkpoints import DAMAGE, first_line
from doublure.data.own_files import (
    PREVIOUS,
    RunFolderError,
    foreign_files,
    is_own,
    make_folder,
    open_own,
    own_names,
    remove_previous,
    set_aside,
    whole_file,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RECIPE, SUMMARY, METRICS, LOG = "recipe.toml", "summary.json", "metrics.jsonl", "log.txt"
# The initialisation of the student.
BEGINNING = "beginning.json"
CHECKPOINT, TENSORBOARD = "checkpoint", "tensorboard"
MAKE_ROOM = "free disk space, then use --resume"


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that it is either as before or complete, also after a power cut."""
    raw = data.encode() if isinstance(data, str) else data
    with _report_disk_errors(path, "what was there before is intact"), whole_file(path) as file:
        file.write(raw)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, locked by one process until it is closed.

    Args:
        record: the file that is written first, and by which the folder is known.
        noun: what is kept there, for messages.
        held: the open folder that keeps other processes out, once there is one.
    """

    path: Path
    record: str = RECIPE
    noun: str = "run"
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

    def check(self, *, resume: bool, overwrite: bool, inputs: Iterable[str | Path] = ()) -> bool:
        """Return whether to resume from the saved recipe; nothing is changed.

        Args:
            inputs: files and folders that the result is made from, as the user named them.

        Raises:
            RunFolderError: the folder has something in it and neither way was asked for, it has
                something that this library did not write, or an input lies in it.
        """
        if resume and overwrite:
            raise RunFolderError("--resume and --overwrite exclude each other; choose one")
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; choose a folder for the {self.noun}")
        if not self.path.exists() or not any(self.path.iterdir()):
            return False
        if not resume and not overwrite:
            raise RunFolderError(
                f"{self.path} exists; resume it with --resume, replace it with --overwrite, or "
                f"choose another --out"
            )
        if not is_own(self.path):
            raise RunFolderError(
                f"{self.path} is not a {self.noun} that doublure wrote; refusing to write into "
                "it: choose another --out"
            )
        self._spare(inputs)
        if overwrite:
            self._spare_foreign()
        self._hold()
        return resume and self.record in own_names(self.path) and self.file(self.record).exists()

    def _spare(self, inputs: Iterable[str | Path]) -> None:
        """Raise where an input is the folder, or lies in it."""
        folder = self.path.resolve()
        for name in inputs:
            path = Path(name).resolve()
            if Path(name).exists() and (path == folder or folder in path.parents):
                raise RunFolderError(
                    f"{self.path} holds {name}, which the {self.noun} is made from; choose "
                    "another --out"
                )

    def _spare_foreign(self) -> None:
        """Raise where something lies in the folder that this library did not write."""
        foreign = [str(path.relative_to(self.path)) for path in foreign_files(self.path)]
        if foreign:
            more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
            raise RunFolderError(
                f"{self.path} also holds {', '.join(foreign[:3])}{more}, which doublure did not "
                "write; nothing is removed: move it away, or choose another --out"
            )

    def begin(self, *, overwrite: bool) -> None:
        """Make the folder; what an earlier result left waits in it until `finish`."""
        self.take(afresh=overwrite or not self.file(self.record).exists())
        try:
            make_folder(self.scratch)
        except OSError as error:
            raise RunFolderError(f"cannot make {self.scratch}: {error.strerror}") from error

    def take(self, *, afresh: bool) -> None:
        """Make the folder, but none for checkpoints; if `afresh`, without an earlier result."""
        try:
            make_folder(self.path)
            self._hold()
            if afresh:
                set_aside(self.path, self.record)
        except OSError as error:
            raise RunFolderError(f"cannot make {self.path}: {error.strerror}") from error

    @property
    def earlier(self) -> Path | None:
        """The result that this one replaces, as long as it is there."""
        path = self.path / PREVIOUS
        return path if path.exists() else None

    def finish(self) -> None:
        """Remove the earlier result: the new one is complete."""
        remove_previous(self.path)

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
            with _report_disk_errors(path, MAKE_ROOM), open_own(path, "a") as file:
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
        intact = f"the one before it is intact: {MAKE_ROOM}"
        with (
            _report_disk_errors(self.path, intact, what="the checkpoint "),
            whole_file(self.path) as file,
        ):
            torch.save(state, file)


class MetricsFile:
    """Appends lines of metrics to metrics.jsonl; truncated to the checkpoint when a run resumes."""

    def __init__(self, folder: RunFolder, stage: int, *, after_step: int = 0) -> None:
        self.stage = stage
        self._path = path = folder.file(METRICS)
        kept = [line for line in read_metrics(path) if _stands(line, stage, after_step)]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file: IO[str] = open_own(path, "a")

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
def _report_disk_errors(path: Path, then: str, *, what: str = "") -> Iterator[None]:
    """Turn what a disk says no with into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RunFolderError(f"cannot write {what}{path}: {reason}; {then}") from error
