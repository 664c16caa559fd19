"""Tables of the saliency benchmark: factors against the floor, baselines, networks, pointing."""

from collections.abc import Mapping
from typing import Any

from cells import Result, table


def saliency(result: Result) -> str:
    """Return a part for each network that was audited, then where planted evidence was found."""
    setting = result["setting"]
    told = (
        f"{setting['images']} correctly classified test images, RISE with {setting['masks']:,} "
        "masks, three seeds. Likeness is the median of Spearman's correlation; in brackets "
        "intervals of 95 % over images."
    )
    rows = {row["arm"]: row for row in result["rows"]}
    parts = [told]
    parts += [_audited(arm, row) for arm, row in rows.items() if arm != "planted"]
    if "planted" in rows:
        parts.append(_planted(rows["planted"]))
    return "\n\n".join(parts)


def _span(entry: Mapping[str, float]) -> str:
    return f"{entry['value']:.2f} ({entry['low']:.2f} to {entry['high']:.2f})"


def _audited(arm: str, row: Mapping[str, Any]) -> str:
    factors = [
        [name, f"{entry['likeness']:.2f}", _span(entry["gap"])]
        for name, entry in row["factors"].items()
    ]
    neutral = [
        [
            name,
            *(f"{entry[key]:.2f}" for key in ("target", "largest", "entropy")),
            f"{entry['uninformative']} of {row['num_images']}",
        ]
        for name, entry in row["neutrality"].items()
    ]
    floor = ", ".join(f"{name} {entry['value']:.2f}" for name, entry in row["floor"].items())
    networks = [
        [name, *(f"{entry['value']:.2f}" for entry in found.values())]
        for name, found in row["networks"].items()
    ]
    curves = row["curves"]
    flagged = sum(map(bool, curves["controls_ahead_of"].values()))
    advantage = curves["own_baseline_advantage"]
    tau = curves["kendall"]
    ranks = (
        f"Variants of the deletion score rank the maps by Kendall's tau {tau['median']:.2f} "
        f"(median; {tau['least']:.2f} to {tau['most']:.2f}), concordance W "
        f"{curves['concordance']:.2f}; {100 * curves['order_flips']:.0f} % of pairs of maps change "
        f"order. In {flagged} of {len(curves['scores'])} variants a control beats a method."
    )
    if advantage:
        ranks += f" A map gains {_span(advantage)} where it is scored with its own baseline."
    return "\n\n".join(
        [
            f"**{arm}.** Floor of seeds: {floor}.",
            table(("what differs", "likeness", "below the floor"), factors),
            table(
                ("baseline alone", "explained class", "likeliest class", "entropy", "neutral on"),
                neutral,
            ),
            table(("likeness to the maps of", *row["floor"]), networks),
            ranks,
        ]
    )


def _planted(row: Mapping[str, Any]) -> str:
    parts = []
    for colour, found in row["pointing"].items():
        rows = [
            [method, *(f"{100 * share:.0f} %" for share in hits.values())]
            for method, hits in found.items()
        ]
        heads = ("largest value on the glyph", *next(iter(found.values())))
        right = f"{100 * row['accuracy'][colour]:.1f} %"
        parts.append(f"**{colour} glyph** decides the class; the network is right on {right}.")
        parts.append(table(heads, rows))
    return "\n\n".join(parts)


TABLES = {"saliency": saliency, "saliency_cifar10": saliency}
