"""The folder of a run: what is written while a student is made, and how it survives a kill.

Every file is replaced as a whole, so that whatever stands there is complete. The checkpoint is
one file a process; the journal is cut back to it when a run goes on.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TextIO

import torch

RECIPE, SUMMARY, METRICS, LOG = "recipe.toml", "summary.json", "metrics.jsonl", "log.txt"
CHECKPOINT = "checkpoint"


class RunFolderError(ValueError):
    """A run folder cannot be used as asked; the message says what stands there and the way out."""


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file so that it is either as before or complete, also after a power cut."""
    part = path.with_name(path.name + ".part")
    raw = data.encode() if isinstance(data, str) else data
    try:
        with part.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunFolderError(
            f"cannot write {path}: {error.strerror}; what was there before is intact"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, on one of its processes."""

    path: Path
    rank: int = 0

    def prepare(self, *, resume: bool, overwrite: bool) -> bool:
        """Make the folder ready and return whether a saved recipe is to be gone on with.

        Raises:
            RunFolderError: the folder has something in it and neither way was asked for, or it
                has something that is no run and would be overwritten.
        """
        if resume and overwrite:
            raise RunFolderError("--resume and --overwrite exclude each other; choose one")
        is_run = (self.path / RECIPE).exists()
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; choose a folder for the run")
        if self.path.exists() and any(self.path.iterdir()):
            if resume:
                return is_run
            if not overwrite:
                raise RunFolderError(
                    f"{self.path} exists; go on with --resume, replace it with --overwrite, "
                    "or choose another --out"
                )
            if not is_run:
                raise RunFolderError(f"{self.path} is not a run; refusing to overwrite it")
            shutil.rmtree(self.path)
        try:
            (self.path / CHECKPOINT).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot make {self.path}: {error.strerror}") from error
        return False

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def scratch(self) -> Path:
        """Where sources keep what is too large for a checkpoint."""
        return self.path / CHECKPOINT

    def logging(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """Return `say`, with each line also at the end of log.txt."""

        def tell(text: str) -> None:
            if self.rank == 0:
                stamp = time.strftime("%Y-%m-%d %H:%M:%S")
                with self.file(LOG).open("a", encoding="utf-8") as file:
                    file.write(f"{stamp} {text}\n")
            say(text)

        return tell

    def read_json(self, name: str) -> Any:
        """Return the value of a JSON file of the folder."""
        try:
            return json.loads(self.file(name).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise RunFolderError(f"cannot read {self.file(name)}: {error}") from error


class FolderKeeper:
    """Keeps the state of a loop in the run's folder, every so many seconds or steps.

    Args:
        stage: which stage of the recipe the loop belongs to.
        seconds: time between two checkpoints of a single process.
        steps: steps between two checkpoints where several processes must agree.
    """

    def __init__(
        self, folder: RunFolder, stage: int, *, seconds: float = 30.0, steps: int | None = None
    ) -> None:
        self.path = folder.scratch / f"stage{stage}-rank{folder.rank}.pt"
        self.seconds, self.steps = seconds, steps
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        if self.steps is not None:
            return step % self.steps == 0
        return time.monotonic() - self._last >= self.seconds

    def save(self, state: dict[str, Any]) -> None:
        part = self.path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            part.unlink(missing_ok=True)
            raise RunFolderError(
                f"cannot write the checkpoint {self.path}: {_reason(error)}; the one before it is "
                "intact: make room, then go on with --resume"
            ) from error
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
            raise RunFolderError(
                f"the checkpoint {self.path} is damaged ({_reason(error)}); "
                "start afresh with --overwrite"
            ) from error
        return state


class Journal:
    """Appends lines of figures to metrics.jsonl; cut back to the checkpoint when a run goes on."""

    def __init__(self, folder: RunFolder, stage: int, *, after_step: int = 0) -> None:
        self.stage = stage
        path = folder.file(METRICS)
        kept = [line for line in read_journal(path) if _stands(line, stage, after_step)]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file: TextIO = path.open("a", encoding="utf-8")

    def __call__(self, figures: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"stage": self.stage, **figures}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a journal; a torn last line is left out."""
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
    return (line["stage"], line["step"]) <= (stage, after_step)


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return strerror or str(error).splitlines()[0][:200]
