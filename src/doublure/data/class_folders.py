"""Image files of a folder, and the map from folder names to a network's classes.

Folder names match the network's class names if it has them (ignoring case); else classes are in
sorted order, numbers sorted as numbers.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from doublure.core.protocols import InputContract

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

# Folder names of the two parts of a data set, preferred name first.
_SPLIT_NAMES = {"train": ("train",), "test": ("test", "val", "valid", "validation")}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The image files of a folder, in sorted order.

    Args:
        folders: the class folders, sorted, or None where there are no labels.
        labels: index into `folders` for each path.
        others: number of files without an image suffix.
        bare: folders next to the class folders without an image.
    """

    root: Path
    paths: tuple[Path, ...]
    folders: tuple[str, ...] | None
    labels: tuple[int, ...] | None
    others: int
    bare: tuple[str, ...] = ()


def find_split(folder: Path, split: Literal["train", "test"]) -> Path:
    """Return the subfolder for `split` if `folder` has such parts, else `folder` itself."""
    known = {name for names in _SPLIT_NAMES.values() for name in names}
    present = {item.name for item in _subfolders(folder)}
    if not present or not present <= known:
        return folder
    for name in _SPLIT_NAMES[split]:
        if name in present:
            return folder / name
    raise ValueError(f"{folder} holds only {', '.join(sorted(present))}: no part for {split}")


def list_images(folder: Path, labels: bool | None) -> Listing:
    """Return the images of `folder`; hidden files and folders are skipped.

    Args:
        labels: True requires class folders, False reads all images without labels, None reads
            labels if there are class folders.
    """
    loose = [item for item in sorted(folder.iterdir()) if item.is_file() and _is_visible(item)]
    inside = {sub.name: list(_files_below(sub)) for sub in _subfolders(folder)}
    every = [*loose, *(path for files in inside.values() for path in files)]
    images = [path for path in every if _is_image(path)]
    if not images:
        raise ValueError(f"{folder} holds no images ({_describe(every)})")
    others = len(every) - len(images)
    classes = _order([name for name, files in inside.items() if any(map(_is_image, files))])
    if labels is False or (labels is None and not classes):
        return Listing(
            root=folder, paths=tuple(sorted(images)), folders=None, labels=None, others=others
        )
    if not classes:
        raise ValueError(f"{folder} has no class folders, so its images have no labels")
    if stray := [path.name for path in loose if _is_image(path)]:
        raise ValueError(
            f"{folder} has {len(stray)} images beside its class folders ({stray[0]} …); "
            "move them into a class, or take every image without a label"
        )
    placed = [
        (path, label)
        for label, name in enumerate(classes)
        for path in inside[name]
        if _is_image(path)
    ]
    return Listing(
        root=folder,
        paths=tuple(path for path, _ in placed),
        folders=tuple(classes),
        labels=tuple(label for _, label in placed),
        others=others,
        bare=tuple(name for name in inside if name not in classes),
    )


def map_folders(
    folders: Sequence[str], contract: InputContract, where: Path, *, bare: Sequence[str] = ()
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the class index of every folder, and notes for the user.

    Args:
        bare: folders without an image, which may nevertheless be classes.
    """
    if contract.names is not None:
        return _by_name(folders, contract.names, where), ()
    if bare and len(folders) < contract.classes:
        raise ValueError(
            f"{where}: {', '.join(bare)} holds no image, so the sorted order does not tell which "
            "class a folder stands for; give the network's class names, or remove what is no class"
        )
    if len(folders) > contract.classes:
        raise ValueError(
            f"{where} has {len(folders)} class folders, but the network has "
            f"{contract.classes} classes"
        )
    order = ", ".join(f"{index}={name}" for index, name in enumerate(folders))
    notes = [f"folder names map to classes in sorted order: {order}"]
    if len(folders) < contract.classes:
        notes.append(
            f"{len(folders)} folders for {contract.classes} classes and no class names: "
            "give the network's names to be sure of the order"
        )
    return tuple(range(len(folders))), tuple(notes)


def listing_digest(root: Path, paths: Iterable[Path]) -> str:
    """Return a digest of relative paths and file sizes; no file is read."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _by_name(folders: Sequence[str], names: Sequence[str], where: Path) -> tuple[int, ...]:
    exact: dict[str, list[int]] = {}
    folded: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        exact.setdefault(name, []).append(index)
        folded.setdefault(name.casefold(), []).append(index)
    found = {name: exact.get(name) or folded.get(name.casefold(), []) for name in folders}
    if unknown := [name for name, indices in found.items() if not indices]:
        shown = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
        raise ValueError(
            f"{where}: no class of the network is called {', '.join(unknown)}; it knows {shown}; "
            "rename the folders, or give the network's class names in its own order"
        )
    if twice := [name for name, indices in found.items() if len(indices) > 1]:
        raise ValueError(
            f"{where}: several classes of the network are called {', '.join(twice)}; "
            "give it names that differ"
        )
    indices = tuple(indices[0] for indices in found.values())
    if len(set(indices)) < len(indices):
        raise ValueError(f"{where}: two folders stand for one class, by upper and lower case")
    return indices


def _order(names: list[str]) -> list[str]:
    # Sort numbers as numbers, so that "10" follows "9".
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _subfolders(folder: Path) -> list[Path]:
    return [item for item in sorted(folder.iterdir()) if item.is_dir() and _is_visible(item)]


def _files_below(folder: Path) -> Iterable[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _describe(files: Sequence[Path]) -> str:
    if not files:
        return "it is empty"
    suffixes = sorted({path.suffix.lower() or "no suffix" for path in files})
    return f"{len(files)} other files: {', '.join(suffixes[:5])}"
