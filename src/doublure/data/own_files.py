"""What this library wrote into a folder: a list beside the files, and writes that are whole.

Every folder that is written into holds a list, `.doublure`: one name a line, as JSON, added before
the file is made. What stands there and is not listed is never replaced and never removed. No
symbolic link is followed, and what is being written has a name that nobody can foresee.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

OWN_LIST = ".doublure"
# Where a result waits until the one that replaces it is complete.
PREVIOUS = ".previous"
_PART = re.compile(r"\..+\.[0-9a-f]{16}\.part")


class RunFolderError(ValueError):
    """A folder cannot be written as asked; the message says what stands there and the way out."""


def is_own(folder: Path) -> bool:
    """Return whether this library has written into the folder."""
    return (folder / OWN_LIST).is_file() and not (folder / OWN_LIST).is_symlink()


def own_names(folder: Path) -> set[str]:
    """Return the names that are listed in a folder; a torn last line is left out."""
    if not is_own(folder):
        return set()
    names: list[object] = []
    for line in (folder / OWN_LIST).read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            names.append(json.loads(line))
    plain = {name for name in names if isinstance(name, str) and Path(name).name == name}
    return plain - {OWN_LIST, ".."}


def foreign_files(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder of ours, and in those inside it, and is not listed."""
    names = own_names(folder)
    for item in sorted(folder.iterdir()):
        if item.name == OWN_LIST or _PART.fullmatch(item.name):
            continue
        if item.name not in names:
            yield item
        elif _is_folder(item) and is_own(item):
            yield from foreign_files(item)


def claim(path: Path) -> None:
    """List a path as one that this library writes, before it does.

    Raises:
        RunFolderError: something stands there that it did not write.
    """
    if path.name == OWN_LIST or path.name in own_names(path.parent):
        return
    if os.path.lexists(path):
        raise RunFolderError(
            f"{path} is there, and doublure did not write it; move it away, or choose another --out"
        )
    with _open(path.parent / OWN_LIST, "ab") as file:
        file.write(json.dumps(path.name).encode() + b"\n")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each with a list, and listed in a folder of ours."""
    lacking = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(lacking):
        if is_own(folder.parent):
            claim(folder)
        folder.mkdir(exist_ok=True)
        _open(folder / OWN_LIST, "ab").close()


def open_own(path: Path, mode: str) -> IO[Any]:
    """Open a file of ours for writing or appending; a symbolic link is not followed."""
    claim(path)
    return _open(path, mode)


def part_of(path: Path) -> Path:
    """Return a name beside `path` for what is not yet complete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def left_parts(path: Path) -> list[Path]:
    """Return what killed writers of `path` left beside it."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{16}\.part")
    return [item for item in path.parent.iterdir() if pattern.fullmatch(item.name)]


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of `path` at the end; after a failure nothing has changed.

    It is on the disk before it is moved, so that a power cut leaves the one or the other.
    """
    claim(path)
    part = part_of(path)
    try:
        with _open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the disk has failed already
            part.unlink(missing_ok=True)
        raise


def remove(path: Path) -> None:
    """Remove what is listed; of a folder with a list only what stands in that. A link is a link."""
    if not _is_folder(path):
        path.unlink(missing_ok=True)
    elif not is_own(path):
        shutil.rmtree(path)
    else:
        for item in _own_items(path):
            remove(item)
        if not any(foreign_files(path)):
            (path / OWN_LIST).unlink()
            path.rmdir()


def set_aside(folder: Path, record: str) -> None:
    """Make room in a folder for a new result; the complete one before it waits in `.previous`.

    What an earlier attempt at a new result left is removed. A kill at any instant loses nothing.

    Args:
        record: the file by which a result is known; it goes first.
    """
    previous = folder / PREVIOUS
    items = [item for item in _own_items(folder) if item.name != PREVIOUS]
    if not items:
        return
    items.sort(key=lambda item: item.name != record)
    if is_own(previous):  # written last: all of the earlier result is there
        for item in items:
            remove(item)
        return
    claim(previous)
    previous.mkdir(exist_ok=True)
    for item in items:
        item.rename(previous / item.name)
    names = own_names(folder) - {PREVIOUS}
    with whole_file(previous / OWN_LIST) as file:
        file.write(_lines(names))
    with whole_file(folder / OWN_LIST) as file:
        file.write(_lines({PREVIOUS}))


def remove_previous(folder: Path) -> None:
    """Remove the result that was replaced, once the new one is complete."""
    if (folder / PREVIOUS).exists() and PREVIOUS in own_names(folder):
        remove(folder / PREVIOUS)


def _own_items(folder: Path) -> list[Path]:
    names = own_names(folder)
    return sorted(
        item for item in folder.iterdir() if item.name in names or _PART.fullmatch(item.name)
    )


def _lines(names: set[str]) -> bytes:
    return "".join(json.dumps(name) + "\n" for name in sorted(names)).encode()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _open(path: Path, mode: str) -> IO[Any]:
    return open(path, mode, opener=_unlinked, encoding=None if "b" in mode else "utf-8")


def _unlinked(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
