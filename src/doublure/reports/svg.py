"""From matplotlib's axes to an inline SVG.

Charts are drawn in placeholder colours, which become the page's CSS variables, so that one picture
works on light and dark pages. Text remains text, in the page's font. All are `WIDTH` CSS pixels
wide: the width of a phone, and half of the page's column.
"""

import html
import io
import re
import warnings
from collections.abc import Callable

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH = 375
# Placeholder colours for matplotlib, and the CSS variables that replace them.
INK, MUTED, LINE, STUDENT, TEACHER = "#010101", "#010102", "#010103", "#010104", "#010105"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    STUDENT: "--student",
    TEACHER: "--teacher",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "doublure",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def draw_svg(name: str, draw: Callable[[Axes], None], alt: str, height: int) -> str:
    """Return one chart as an <svg> element; `name` must be the only one of its page."""
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # The browser draws the text with its own fonts: missing letters here do not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # 72 points an inch and as many units of the view box as points: one unit, one CSS pixel.
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue().decode(), name, alt)


def _inline(document: str, name: str, alt: str) -> str:
    """Return matplotlib's SVG file as an element of a page: its own ids, the page's colours."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # A <style> inside an inline SVG would reach the whole page.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    # Only inside tags: a class name may contain url(#.
    svg = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag[0], name), svg)
    size = re.search(r'viewBox="[^"]*"', svg)
    assert size is not None
    opening = f'<svg {size[0]} role="img" aria-label="{html.escape(alt, quote=True)}"'
    return svg.replace(svg[: svg.index(">")], opening, 1)


def _page_tag(tag: str, name: str) -> str:
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'href="#', f'href="#{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    tag = re.sub(r" font-family: [^;\"]*;| transform=\"rotate\(-0 [^\"]*\"", "", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return tag


def ticks(*, integer: bool = False) -> MaxNLocator:
    """Return round positions for a few ticks."""
    # With fewer than two integers in the range, one is enough: fractions would have equal labels.
    fewest = 1 if integer else 2
    return MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=integer, min_n_ticks=fewest)


def per_cent_axis(axis: Axis) -> None:
    """Write the ticks of an axis of shares as per cent, up to 100 %."""
    axis.set_major_locator(ticks())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:.3g} %" if value <= 1 else "")
    )
