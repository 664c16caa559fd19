"""The page of `audit quantization`: heat map of layers and bits, policies of equal cost, witnesses.

A pure function of what was found; equal findings give equal bytes.
"""

import torch
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from torch import Tensor

from doublure.core.findings import Tag
from doublure.core.quantization_findings import QuantizationFinding
from doublure.reports import numbers
from doublure.reports.facts import Fact
from doublure.reports.page import unbroken
from doublure.reports.pictures import contact_sheet
from doublure.reports.svg import LINE, STUDENT, TEACHER, draw_svg, per_cent_axis
from doublure.reports.tables import Cell, Table

_ROW, _HEIGHT = 15, 260
_LABELS = {"ok": "No alarm", "warn": "Look at these layers", "fail": "Not safe at this cost"}


def render(
    name: str,
    found: QuantizationFinding,
    images: Float[Tensor, "images channels height width"],
) -> str:
    """Return the page.

    Args:
        images: those the finding is about, whose witnesses are shown.
    """
    environment = Environment(
        loader=PackageLoader("doublure.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    shown = images[torch.tensor(found.witnesses)]
    pixels = (shown * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return environment.get_template("quantization_audit.html").render(
        name=name,
        found=found,
        label=_LABELS[found.verdict],
        facts=_facts(found),
        heat_map=Markup(heat_map(found)),
        policies=Markup(policies_chart(found)),
        layers=layers_table(found),
        corrupted=_corrupted_table(found),
        witnesses=list(zip(contact_sheet(pixels, 400_000), found.witness_flips, strict=True)),
    )


def heat_map(found: QuantizationFinding) -> str:
    """Return the share of answers that each layer alone flips, by bits."""
    bits = sorted(found.layers[0].flips)
    values = [[layer.flips[width] for width in bits] for layer in found.layers]

    def draw(axes: Axes) -> None:
        for row, shares in enumerate(values):
            for column, share in enumerate(shares):
                axes.barh(
                    row, 1, left=column, height=0.94, color=STUDENT, alpha=min(1.0, 0.04 + share)
                )
                axes.text(
                    column + 0.5, row, numbers.percent(share), ha="center", va="center", size=7
                )
        axes.set_xlim(0, len(bits))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xticks([column + 0.5 for column in range(len(bits))], [f"{b} bits" for b in bits])
        axes.set_yticks(range(len(values)), [layer.name for layer in found.layers], size=7)
        axes.grid(visible=False)

    worst = max(found.layers, key=lambda layer: max(layer.flips.values()))
    alt = f"flips by layer and bits; the worst is {worst.name}"
    return draw_svg("heat-map", draw, alt, 60 + _ROW * len(values))


def policies_chart(found: QuantizationFinding) -> str:
    """Return how many answers policies of equal cost flip, beside uniform bits."""

    def draw(axes: Axes) -> None:
        widths = sorted(found.uniform)
        axes.plot(widths, [found.uniform[w] for w in widths], "-o", color=LINE, markersize=4)
        at = [found.mean_bits] * len(found.random_flips)
        axes.plot(at, found.random_flips, "_", color=TEACHER, markersize=12, alpha=0.4)
        axes.plot([found.mean_bits], [found.worst], "o", color=STUDENT, markersize=8)
        axes.set_xlabel("mean bits of the layers' inputs")
        per_cent_axis(axes.yaxis)

    alt = f"flips by mean bits; the worst policy flips {numbers.percent(found.worst)}"
    return draw_svg("policies", draw, alt, _HEIGHT)


def layers_table(found: QuantizationFinding) -> Table:
    """Return every layer, in the order in which they are called."""
    bits = sorted(found.layers[0].flips)
    columns: list[tuple[str, Tag | None]] = [
        ("Layer", None),
        *((f"Flips at {width}", "proxy") for width in bits),
        ("Channel inflation", "measured"),
        ("Kurtosis", "measured"),
        ("Safe bits", "proxy"),
        ("Worst policy", None),
    ]
    rows = []
    for layer in found.layers:
        marks = "vulnerable" if layer.vulnerable else ""
        rows.append(
            (
                Cell(text=layer.name, detail=marks),
                *(Cell(text=numbers.percent(layer.flips[width])) for width in bits),
                Cell(text=f"{layer.inflation:.1f}"),
                Cell(text=f"{layer.kurtosis:.1f}"),
                Cell(text=str(layer.safe_bits)),
                Cell(text=f"{found.worst_policy[layer.name]} bits"),
            )
        )
    return Table(columns=tuple(columns), rows=tuple(rows))


def _corrupted_table(found: QuantizationFinding) -> Table:
    lowest = min(found.uniform)
    rows = tuple(
        (Cell(text=name), *(Cell(text=numbers.percent(share)) for share in shares))
        for name, shares in found.corrupted.items()
    )
    return Table(
        columns=(("Images", None), (f"{lowest} bits", "proxy"), ("Worst policy", "proxy")),
        rows=rows,
    )


def _facts(found: QuantizationFinding) -> list[Fact]:
    by_input = found.by_input
    return [
        Fact(
            name="Worst policy",
            value=numbers.percent(found.worst),
            tag="proxy",
            detail=f"of answers flip, at {found.mean_bits:.2f} bits on average",
        ),
        Fact(
            name="Random policies",
            value=numbers.percent(found.random_mean),
            tag="proxy",
            detail=f"at the same cost; the worst of {len(found.random_flips)}: "
            f"{numbers.percent(found.random_worst)}",
        ),
        Fact(
            name="Policy by image",
            value=numbers.percent(by_input.learned),
            tag="proxy",
            detail=f"learned; one for all {numbers.percent(by_input.constant)}, "
            f"oracle {numbers.percent(by_input.oracle)}",
        ),
        Fact(
            name="Vulnerable layers",
            value=f"{len(found.vulnerable)} of {len(found.layers)}",
            tag="proxy",
            detail=", ".join(found.vulnerable[:4]),
        ),
    ]
