"""The images in a RUN folder: transfer images, and the optimisation of images.

A missing file is None; an invalid one raises one line with its path, the wrong array, and a remedy.
"""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Float, Int, UInt8

from doublure.data.own_files import RunFolderError

SAMPLES, OPTIMISATION_PATH = "samples.npz", "optimisation_path.npz"
WAY_OUT = "run the verb again, or remove the file to leave its section out"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """`samples.npz`: images as fed to the student, and the outputs of both networks.

    Args:
        raw: the same images before augmentation.
        histogram: counts of the teacher's classes in a larger sample of the stream.
    """

    images: UInt8[np.ndarray, "images height width channels"] | None = None
    raw: UInt8[np.ndarray, "images raw_height raw_width raw_channels"] | None = None
    teacher: Float[np.ndarray, "images classes"] | None = None
    student: Float[np.ndarray, "images classes"] | None = None
    histogram: Int[np.ndarray, " classes"] | None = None
    histogram_count: int | None = None


@dataclass(frozen=True, kw_only=True)
class OptimisationRecord:
    """`optimisation_path.npz`: a few images at several points of their optimisation.

    Args:
        iterations: number of iterations at each point.
        named: the teacher's class of each final image.
        sure: the teacher's confidence in that class at each point.
    """

    images: UInt8[np.ndarray, "points images height width channels"]
    iterations: Int[np.ndarray, " points"]
    named: Int[np.ndarray, " images"]
    sure: Float[np.ndarray, "points images"]


def read_samples(path: Path) -> Samples | None:
    """Return the content of `samples.npz`; None without such a file."""
    arrays = read_arrays(path)
    return None if arrays is None else _checked_samples(path, arrays)


def read_search_path(path: Path) -> OptimisationRecord | None:
    """Return the content of `optimisation_path.npz`; None without such a file."""
    arrays = read_arrays(path)
    return None if arrays is None else _checked_search_path(path, arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of an archive, by name; None where there is no such file."""
    if not path.is_file():
        return None
    # numpy reads other files as pickles or single arrays, and does not close a broken one.
    if not zipfile.is_zipfile(path):
        raise RunFolderError(f"{path} is not a whole .npz archive; {WAY_OUT}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunFolderError(f"{path} cannot be read: {reason}; {WAY_OUT}") from error


def _checked_samples(path: Path, arrays: Mapping[str, np.ndarray]) -> Samples:
    for name in ("images", "raw"):
        if name in arrays:
            _check_images(path, name, arrays[name])
    for name, kinds, dimensions, rule in (
        ("teacher", "f", 2, "float (images, classes)"),
        ("student", "f", 2, "float (images, classes)"),
        ("histogram", "iu", 1, "one row of integers"),
        ("histogram_count", "iu", 0, "one integer"),
    ):
        array = arrays.get(name)
        if array is not None and (array.dtype.kind not in kinds or array.ndim != dimensions):
            _refuse(path, name, array, rule)
    lengths = {
        name: len(arrays[name])
        for name in ("images", "raw", "teacher", "student")
        if name in arrays
    }
    if len(set(lengths.values())) > 1:
        raise RunFolderError(f"{path}: arrays differ in length: {lengths}; {WAY_OUT}")
    classes = {
        name: arrays[name].shape[-1]
        for name in ("teacher", "student", "histogram")
        if name in arrays
    }
    if len(set(classes.values())) > 1:
        raise RunFolderError(f"{path}: arrays differ in classes: {classes}; {WAY_OUT}")
    histogram, count = arrays.get("histogram"), arrays.get("histogram_count")
    return Samples(
        images=arrays.get("images"),
        raw=arrays.get("raw"),
        teacher=arrays.get("teacher"),
        student=arrays.get("student"),
        histogram=None if histogram is None else histogram.astype(np.int64),
        histogram_count=None if count is None else int(count),
    )


def _checked_search_path(path: Path, arrays: Mapping[str, np.ndarray]) -> OptimisationRecord:
    wanted = ("images", "iterations", "named", "sure")
    if missing := [name for name in wanted if name not in arrays]:
        raise RunFolderError(f"{path} has no {', '.join(missing)}; {WAY_OUT}")
    images = arrays["images"]
    if images.ndim != 5:
        _refuse(path, "images", images, "uint8 (points, images, height, width, channels)")
    _check_images(path, "images", images.reshape(-1, *images.shape[2:]))
    points, count = images.shape[:2]
    for name, kinds, shape in (
        ("iterations", "iu", (points,)),
        ("named", "iu", (count,)),
        ("sure", "f", (points, count)),
    ):
        if arrays[name].dtype.kind not in kinds or arrays[name].shape != shape:
            _refuse(path, name, arrays[name], f"{'float' if kinds == 'f' else 'integers'} {shape}")
    if arrays["named"].min(initial=0) < 0:
        _refuse(path, "named", arrays["named"], "a class each, counted from 0")
    return OptimisationRecord(**{name: arrays[name] for name in wanted})


def _check_images(path: Path, name: str, array: np.ndarray) -> None:
    right = array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] in (1, 3)
    if not right or min(array.shape[1:3]) < 1:
        _refuse(path, name, array, "uint8 (images, height, width, 1 or 3 channels)")


def _refuse(path: Path, name: str, array: np.ndarray, rule: str) -> NoReturn:
    raise RunFolderError(
        f"{path}: {name} must be {rule}, got {array.dtype} {array.shape}; {WAY_OUT}"
    )
