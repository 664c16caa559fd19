"""`picture_rows.npz`: a few held-out items as pictures, a row each: what is shown and answered.

The task draws them (image | teacher | student | truth); the page only sets them side by side.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from doublure.data.own_files import RunFolderError
from doublure.reports.shown_images import WAY_OUT, read_arrays

PICTURE_ROWS = "picture_rows.npz"


@dataclass(frozen=True, kw_only=True)
class PictureRows:
    """Rows of pictures of one size.

    Args:
        columns: what each column shows.
    """

    columns: tuple[str, ...]
    images: UInt8[np.ndarray, "rows columns height width 3"]


def picture_rows_bytes(columns: Sequence[str], images: np.ndarray) -> bytes:
    """Return the content of `picture_rows.npz`."""
    file = io.BytesIO()
    np.savez_compressed(file, columns=np.array(columns), images=images)
    return file.getvalue()


def read_picture_rows(path: Path) -> PictureRows | None:
    """Return what is in `picture_rows.npz`; None where there is no such file."""
    arrays = read_arrays(path)
    if arrays is None:
        return None
    columns, images = arrays.get("columns"), arrays.get("images")
    if columns is None or images is None or columns.dtype.kind != "U" or columns.ndim != 1:
        raise RunFolderError(f"{path} must hold names of columns and images; {WAY_OUT}")
    shape = images.shape
    if images.dtype != np.uint8 or images.ndim != 5 or shape[1] != len(columns) or shape[4] != 3:
        raise RunFolderError(
            f"{path}: images must be uint8 (rows, {len(columns)}, height, width, 3), got "
            f"{images.dtype} {shape}; {WAY_OUT}"
        )
    return PictureRows(columns=tuple(str(name) for name in columns), images=images)
