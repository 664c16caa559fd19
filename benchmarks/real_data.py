"""Where the benchmarks find real data: the folder that DOUBLURE_DATA names, unpacked once.

Archives are unpacked below DOUBLURE_SCRATCH, or the system's folder for temporary files, and
found there by the next benchmark.
"""

import os
import tarfile
import tempfile
from pathlib import Path


def data_folder() -> Path:
    """Return the folder of real data."""
    folder = os.environ.get("DOUBLURE_DATA")
    if not folder:
        raise SystemExit("set DOUBLURE_DATA to the folder of real data")
    return Path(folder)


def scratch_folder() -> Path:
    """Return the folder that archives are unpacked in."""
    return Path(os.environ.get("DOUBLURE_SCRATCH") or tempfile.gettempdir())


def cifar10_folder() -> Path:
    """Return CIFAR-10 as JPEG files: train/<class>/NNNN.jpg and test/<class>/NNNN.jpg."""
    return unpacked(data_folder() / "cifar10-jpeg.tar.xz", scratch_folder() / "cifar10")


def unpacked(archive: Path, folder: Path) -> Path:
    """Return `folder` with the archive's content; `.ready` in it says that all of it is there."""
    if not (folder / ".ready").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
        (folder / ".ready").touch()
    return folder
