"""The optimisation of images as one picture: a row for each image, from start to end.

For a SET, which has no report. Small images keep their pixels, each enlarged to a square; large
ones are shrunk. Equal input gives equal bytes.
"""

import functools
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib.style
import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from doublure.reports import numbers
from doublure.reports.shown_images import OptimisationRecord

# Pixels.
_SIDE, _GAP, _EDGE, _LINE, _LETTER, _DOTS = 96, 10, 18, 18, 7, 100
_LONGEST = 20  # letters of a class name
_INK, _MUTED = "#1d2126", "#646c75"
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,
}
_TITLE = "The first images, after so many iterations of their search"
_NOTE = (
    "Last: the image of the smallest loss, as it was handed out.",
    "Below each: how sure the teacher was of the class it names in the end.",
)


def optimisation_picture(optimisation: OptimisationRecord, names: Sequence[str] | None) -> bytes:
    """Return a PNG.

    Args:
        names: names of the classes; None shows their numbers.
    """
    tiles = [[_tile(image) for image in row] for row in optimisation.images.swapaxes(0, 1)]
    high, wide = tiles[0][0].shape[:2]
    called = [_called(int(index), names) for index in optimisation.named]
    left = _EDGE + _LETTER * max(map(len, called)) + _GAP
    top = _EDGE + (2 + len(_NOTE)) * _LINE + _GAP
    width = (
        max(left + len(optimisation.images) * (wide + _GAP) - _GAP, _LETTER * len(_NOTE[1])) + _EDGE
    )
    height = top + len(tiles) * (high + _LINE + _GAP) - _GAP + _EDGE
    with _drawing(width, height) as (figure, file):
        write = functools.partial(_write, figure)
        write(_EDGE, _EDGE, _TITLE, _INK, "left")
        for line, text in enumerate(_NOTE, 1):
            write(_EDGE, _EDGE + line * _LINE, text, _MUTED, "left")
        for at, done in enumerate(optimisation.iterations):
            middle = left + at * (wide + _GAP) + wide / 2
            write(middle, top - _LINE, numbers.count(int(done)), _INK, "center")
        for place, row in enumerate(tiles):
            y = top + place * (high + _LINE + _GAP)
            write(left - _GAP, y + high / 2 - _LINE / 3, called[place], _INK, "right")
            for at, tile in enumerate(row):
                x = left + at * (wide + _GAP)
                figure.figimage(tile, x, height - y - high, origin="upper")
                sure = f"{100 * float(optimisation.sure[at, place]):.0f} %"
                write(x + wide / 2, y + high + 3, sure, _MUTED, "center")
    return file.getvalue()


@contextmanager
def _drawing(width: int, height: int) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Yield a figure of this many pixels, and the file that has its image after the block."""
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # The font may lack letters of a class name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width / _DOTS, height / _DOTS), dpi=_DOTS)
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        yield figure, file
        figure.savefig(file, format="png", metadata={"Software": None})


def _write(figure: Figure, x: float, y: float, text: str, colour: str, at: str) -> None:
    """Write a line whose upper edge is `y` pixels from the top."""
    width, height = figure.get_size_inches() * _DOTS
    figure.text(x / width, 1 - y / height, text, color=colour, ha=at, va="top")


def _tile(
    image: UInt8[np.ndarray, "height width channels"],
) -> UInt8[np.ndarray, "tile_height tile_width 3"]:
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
    longest = max(picture.size)
    if longest <= _SIDE:
        times = _SIDE // longest
        picture = picture.resize(
            (picture.width * times, picture.height * times), Image.Resampling.NEAREST
        )
    else:
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _called(index: int, names: Sequence[str] | None) -> str:
    name = " ".join((names[index] if names and index < len(names) else str(index)).split())
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1].rstrip(' ,')}…"
