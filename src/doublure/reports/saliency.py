"""`audit.html` of a saliency audit: the verdict, maps side by side, and what they depend on.

No script, nothing fetched, all text escaped; equal audits give equal bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes

from doublure.reports.page import unbroken
from doublure.reports.pictures import contact_sheet
from doublure.reports.svg import INK, MUTED, STUDENT, TEACHER, draw_svg
from doublure.reports.tables import Cell, Table

# Images whose maps are shown, and bytes of all pictures.
_SHOWN, _BYTES = 2, 600_000
_LABELS = {"ok": "Can be shown", "warn": "Show with care", "fail": "Do not show"}


def render(audit: Mapping[str, Any], arrays: Mapping[str, Any], ranked: np.ndarray) -> str:
    """Return the page.

    Args:
        audit: what audit.json holds.
        arrays: what maps.npz holds.
        ranked: deletion curves, [images, maps, MoRF and LeRF, baselines, points].
    """
    environment = Environment(
        loader=PackageLoader("doublure.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    plan = audit["plan"]
    return environment.get_template("saliency.html").render(
        audit=audit,
        label=_LABELS[audit["verdict"]],
        grids=[_grid(audit, arrays, place) for place in range(min(_SHOWN, len(ranked)))],
        factors=_factors(audit),
        neutrality=_neutrality(audit),
        verdicts=_verdicts(audit),
        networks=_networks(audit),
        curves=Markup(_curves(plan, ranked)),
        flagged=[
            (variant, control, methods)
            for variant, found in audit["curves"]["controls_ahead_of"].items()
            for control, methods in found.items()
        ],
    )


def heat(saliency: np.ndarray) -> np.ndarray:
    """Return a map as uint8 colours by the ranks of its pixels, so that no outlier decides."""
    from scipy import stats  # slow to import, so only here

    ranks = stats.rankdata(saliency).reshape(saliency.shape)
    colours = matplotlib.colormaps["magma"]((ranks - 1) / max(1, ranks.size - 1))
    return np.asarray((255 * colours[..., :3]).round(), dtype=np.uint8)


def _grid(audit: Mapping[str, Any], arrays: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Return an image and its maps, methods by baselines, with likeness to the first baseline."""
    from scipy import stats  # slow to import, so only here

    plan = audit["plan"]
    names = [
        [f"model/{method}/{baseline}/standard/0" for baseline in plan["baselines"]]
        for method in plan["methods"]
    ]
    tiles = np.stack([heat(arrays[name][place]) for row in names for name in row])
    budget = _BYTES // _SHOWN
    pictures = iter(contact_sheet(tiles, budget))
    image = arrays["images"][place].transpose(1, 2, 0)
    rows = []
    for method, row in zip(plan["methods"], names, strict=True):
        first = arrays[row[0]][place].ravel()
        likeness = [float(stats.spearmanr(first, arrays[n][place].ravel()).statistic) for n in row]
        cells = [(next(pictures), "" if value != value else f"{value:.2f}") for value in likeness]
        rows.append((method, cells))
    return {"image": contact_sheet(image[None], budget)[0], "rows": rows}


def _span(estimate: Mapping[str, float]) -> str:
    return f"{estimate['low']:.2f} to {estimate['high']:.2f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    columns = tuple((head, None) for head in heads)
    return Table(
        columns=columns, rows=tuple(tuple(Cell(text=text) for text in row) for row in rows)
    )


def _factors(audit: Mapping[str, Any]) -> Table:
    return _table(
        ("What differs", "Likeness of the maps", "Below the seed floor by", "95 % interval"),
        [
            [
                name,
                f"{entry['likeness']:.2f}",
                f"{entry['gap']['value']:.2f}",
                _span(entry["gap"]),
            ]
            for name, entry in audit["factors"].items()
        ],
    )


def _neutrality(audit: Mapping[str, Any]) -> Table:
    count = audit["num_images"]
    return _table(
        (
            "Baseline alone",
            "Explained class",
            "Likeliest class",
            "Entropy",
            "Neutral on",
            "Left out",
        ),
        [
            [
                name,
                f"{entry['target']:.2f}",
                f"{entry['largest']:.2f}",
                f"{entry['entropy']:.2f}",
                f"{entry['uninformative']} of {count}",
                str(entry["left_out"]),
            ]
            for name, entry in audit["neutrality"].items()
        ],
    )


def _verdicts(audit: Mapping[str, Any]) -> Table:
    return _table(
        ("Method", "Baseline", "Variant", "Likeness to its neighbours", "Interval", "Verdict"),
        [
            [
                entry["method"],
                entry["baseline"],
                entry["variant"],
                f"{entry['likeness']['value']:.2f}",
                _span(entry["likeness"]),
                entry["verdict"],
            ]
            for entry in audit["verdicts"]
        ],
    )


def _networks(audit: Mapping[str, Any]) -> Table:
    words = {"random": "random weights", "against": "the other network"}
    return _table(
        ("Network", "Method", "Likeness to the model's maps", "Interval", "Seed floor"),
        [
            [
                words.get(network, network),
                method,
                f"{entry['value']:.2f}",
                _span(entry),
                f"{audit['floor'][method]['value']:.2f}",
            ]
            for network, found in audit["networks"].items()
            for method, entry in found.items()
        ],
    )


def _curves(plan: Mapping[str, Any], ranked: np.ndarray) -> str:
    """Return mean MoRF curves of the methods under the first two baselines."""
    mean = ranked[:, :, 0].mean(0)
    styles = ("-", "--", ":", "-.", (0, (1, 1)), (0, (4, 1, 1, 1)))

    def draw(axes: Axes) -> None:
        shares = np.linspace(0, 1, mean.shape[-1])
        for baseline, colour in zip(range(2), (STUDENT, TEACHER), strict=True):
            for method, style in zip(range(len(plan["methods"])), styles, strict=False):
                label = f"{plan['methods'][method]}, {plan['baselines'][baseline]}"
                axes.plot(
                    shares, mean[method, baseline], color=colour, linestyle=style, label=label
                )
        axes.set_xlabel("share of the image taken away")
        axes.legend(labelcolor=INK, frameon=False, fontsize=9)
        axes.tick_params(labelcolor=MUTED)

    return draw_svg("deletion", draw, "Deletion curves of each method under two baselines", 260)
