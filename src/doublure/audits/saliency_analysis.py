"""What the maps and curves of a saliency audit say: gaps, ranks, controls, and a verdict.

A factor is judged by Spearman's correlation of maps that differ in it alone, image by image, over
what the correlation of two seeds is (the floor). Of a method without randomness the floor is 1.
Intervals are bootstrapped over images; those of one table hold together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from doublure.audits import saliency_measures as measures
from doublure.audits.saliency import CONTROLS, MODEL, RANDOM, Configuration, SaliencyAudit
from doublure.audits.saliency_measures import Array, Estimate
from doublure.core.findings import Finding

# Of a consistency, over the floor: from where on it is stable, or fragile; below, divergent.
STABLE, FRAGILE = 0.9, 0.5
# How much likelier than chance a baseline may make a class and still be called neutral.
NEUTRAL_SLACK = 0.05
_LEVEL, _ROUNDS, _PERMUTATIONS = 0.95, 2000, 199
ORDERS = ("MoRF", "LeRF")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured, image by image.

    Args:
        maps: [images, height, width] by configuration.
        ranked, own: as `MapMaker.curves` returns them, with images in front.
        neutrality: of each baseline: [images, baselines] by name.
        others: names of the networks compared with, beside the random one.
        num_classes: that the network knows.
    """

    settings: SaliencyAudit
    maps: Mapping[str, Array]
    ranked: Array
    own: Array
    neutrality: Mapping[str, Array]
    others: tuple[str, ...]
    num_classes: int


class _Likeness:
    """Correlations of maps by configuration, an image each."""

    def __init__(self, maps: Mapping[str, Array]) -> None:
        self.vectors = {
            name: measures.rank_vectors(part.reshape(len(part), -1)) for name, part in maps.items()
        }

    def __call__(self, one: Configuration, other: Configuration) -> Array:
        products: Array = (self.vectors[one.name] * self.vectors[other.name]).sum(1)
        return products

    def mean(self, configurations: Sequence[Configuration]) -> Array:
        """Return the mean correlation of all pairs; ones of a single configuration."""
        pairs = [self(one, other) for one, other in combinations(configurations, 2)]
        if not pairs:
            return np.ones(len(next(iter(self.vectors.values()))))
        mean: Array = np.mean(pairs, axis=0)
        return mean


def analyse(measured: Measured, seed: int) -> dict[str, Any]:
    """Return what `audit.json` holds of the measurements."""
    settings, alike = measured.settings, _Likeness(measured.maps)
    rng = np.random.default_rng(seed)
    configurations = settings.configurations((RANDOM, *measured.others))
    floors = {name: alike.mean(_where(configurations, name, "seed")) for name in settings.methods}
    return {
        "num_images": len(measured.ranked),
        "neutrality": _neutrality(measured),
        "floor": _told(floors, rng),
        "factors": _factors(settings, configurations, alike, floors, rng),
        "variants": _variants(settings, configurations, alike),
        "baseline_pairs": {
            name: _matrix(alike, _where(configurations, name, "baseline"))
            for name in settings.methods
        },
        "method_pairs": _matrix(alike, _firsts(settings)),
        "other_measures": _other_measures(measured, configurations),
        "variance": _variance(settings, alike, rng),
        "curves": _curves(measured, rng),
        "networks": _networks(measured, alike, floors, rng),
        "verdicts": _verdicts(settings, configurations, alike, floors, rng),
    }


def _where(
    configurations: Sequence[Configuration], method: str, factor: str
) -> list[Configuration]:
    """Return the configurations of a method that differ from its first in one factor at most."""
    own = [item for item in configurations if item.method == method]
    fixed = [name for name in ("network", "baseline", "variant", "seed") if name != factor]
    return [item for item in own if all(getattr(item, n) == getattr(own[0], n) for n in fixed)]


def _firsts(settings: SaliencyAudit, network: str = MODEL) -> list[Configuration]:
    first = settings.baselines[0]
    return [
        Configuration(method=name, baseline=first, network=network) for name in settings.methods
    ]


def _told(values: Mapping[str, Array], rng: np.random.Generator) -> dict[str, Any]:
    found = measures.bootstrap(values, _LEVEL, _ROUNDS, rng)
    return {name: estimate._asdict() for name, estimate in found.items()}


def _neutrality(measured: Measured) -> dict[str, Any]:
    """Return of each baseline the medians, and how often it is neutral and how often left out."""
    limit = 1 / measured.num_classes + NEUTRAL_SLACK
    start, end = measured.own[:, 0, :, 0], measured.own[:, 0, :, -1]
    made = {}
    for place, name in enumerate(measured.settings.baselines):
        columns = {key: part[:, place] for key, part in measured.neutrality.items()}
        made[name] = {key: float(np.median(column)) for key, column in columns.items()}
        made[name] |= {
            "neutral": int((columns["target"] <= limit).sum()),
            "uninformative": int((columns["largest"] <= limit).sum()),
            "left_out": int((end[:, place] >= start[:, place]).sum()),
        }
    return made


def _factors(
    settings: SaliencyAudit,
    configurations: Sequence[Configuration],
    alike: _Likeness,
    floors: Mapping[str, Array],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Return the median likeness over each factor and the gap below the floor, by method."""
    made: dict[str, Any] = {}
    for factor in ("baseline", "variant"):
        for method in settings.methods:
            chosen = _where(configurations, method, factor)
            if len(chosen) > 1:
                made[f"{factor}: {method}"] = _gap(floors[method], alike.mean(chosen), rng)
    if len(settings.methods) > 1:
        floor = np.min(list(floors.values()), axis=0)
        made["method"] = _gap(floor, alike.mean(_firsts(settings)), rng)
    return made


def _gap(floor: Array, values: Array, rng: np.random.Generator) -> dict[str, Any]:
    gap = measures.bootstrap_gap(floor, values, _LEVEL, _ROUNDS, rng)
    return {"likeness": float(np.median(values)), "gap": gap._asdict(), "beyond": gap.low > 0}


def _variants(
    settings: SaliencyAudit, configurations: Sequence[Configuration], alike: _Likeness
) -> dict[str, Any]:
    made = {}
    for method in settings.methods:
        standard, *others = _where(configurations, method, "variant")
        for item in others:
            made[f"{method}, {item.variant}"] = float(np.median(alike(standard, item)))
    return made


def _matrix(alike: _Likeness, chosen: Sequence[Configuration]) -> list[list[float]]:
    return [[float(np.median(alike(one, other))) for other in chosen] for one in chosen]


def _other_measures(
    measured: Measured, configurations: Sequence[Configuration]
) -> dict[str, dict[str, float]]:
    """Return overlap of the most relevant pixels, and SSIM, over each method's baselines."""
    made = {}
    for method in measured.settings.methods:
        chosen = _where(configurations, method, "baseline")
        overlaps, structures = [], []
        for one, other in combinations([measured.maps[item.name] for item in chosen], 2):
            flat = [part.reshape(len(part), -1) for part in (one, other)]
            overlaps.append(measures.top_overlap(flat[0], flat[1]))
            pair = (torch.from_numpy(one), torch.from_numpy(other))
            structures.append(measures.structural_similarity(*pair).numpy())
        made[method] = {
            "top_overlap": float(np.median(np.mean(overlaps, axis=0))),
            "ssim": float(np.median(np.mean(structures, axis=0))),
        }
    return made


def _variance(
    settings: SaliencyAudit, alike: _Likeness, rng: np.random.Generator
) -> dict[str, float]:
    """Return shares of the variance of rank maps, and the p-value of the baseline."""
    vectors = np.stack(
        [
            np.stack(
                [
                    alike.vectors[Configuration(method=method, baseline=name).name]
                    for name in settings.baselines
                ],
                axis=1,
            )
            for method in settings.methods
        ],
        axis=1,
    )
    p_value = measures.baseline_p_value(vectors, _PERMUTATIONS, rng)
    return {**measures.nested_shares(vectors), "baseline_p_value": p_value}


def _curves(measured: Measured, rng: np.random.Generator) -> dict[str, Any]:
    """Return how variants of the deletion score rank the maps; a lower score is a better map.

    An image whose baseline is as likely as itself has no score there; it is left out of that
    variant.
    """
    settings = measured.settings
    names = [*settings.methods, *CONTROLS]
    areas = measures.normalised_area(measured.ranked)
    areas[:, :, 1] *= -1  # of LeRF, more is better
    variants = [f"{order} {name}" for order in ORDERS for name in settings.baselines]
    columns = areas.transpose(2, 3, 0, 1).reshape(len(variants), *areas.shape[:2])
    kept = [column[~np.isnan(column).any(1)] for column in columns]
    variants = [name for name, rows in zip(variants, kept, strict=True) if len(rows)]
    scores = np.stack([rows.mean(0) for rows in kept if len(rows)])
    pairs = [measures.kendall_tau(one, other) for one, other in combinations(scores, 2)]
    beaten = {
        variant: {
            control: [
                method
                for method in settings.methods
                if row[names.index(control)] < row[names.index(method)]
            ]
            for control in CONTROLS
        }
        for variant, row in zip(variants, scores, strict=True)
    }
    return {
        "maps": names,
        "scores": dict(zip(variants, np.abs(scores).tolist(), strict=True)),
        "kendall": {"median": float(np.median(pairs)), "least": min(pairs), "most": max(pairs)},
        "concordance": measures.kendall_w(scores),
        "order_flips": measures.order_flips(scores),
        "controls_ahead_of": {
            variant: {control: methods for control, methods in found.items() if methods}
            for variant, found in beaten.items()
        },
        "own_baseline_advantage": _advantage(measured.own, rng),
    }


def _advantage(own: Array, rng: np.random.Generator) -> dict[str, float]:
    """Return how much better (lower) MoRF is for the map made with the baseline it is scored by."""
    areas = measures.normalised_area(own)
    areas = areas[~np.isnan(areas).any((1, 2))]
    if not len(areas):
        return {}
    same = np.diagonal(areas, axis1=1, axis2=2).mean(1)
    others = ~np.eye(areas.shape[1], dtype=bool)
    gaps = {"gap": areas[:, others].mean(1) - same}
    return measures.bootstrap(gaps, _LEVEL, _ROUNDS, rng)["gap"]._asdict()


def _networks(
    measured: Measured, alike: _Likeness, floors: Mapping[str, Array], rng: np.random.Generator
) -> dict[str, Any]:
    """Return the likeness of each other network's maps to the model's, and whether they survived.

    They did where the likeness is at the floor of another seed, or above; the floor of a method
    without randomness is 1, and `STABLE` is asked for.
    """
    made: dict[str, Any] = {}
    for network in (RANDOM, *measured.others):
        pairs = zip(_firsts(measured.settings), _firsts(measured.settings, network), strict=True)
        values = {one.method: alike(one, other) for one, other in pairs}
        made[network] = _told(values, rng)
        for method, entry in made[network].items():
            floor = float(np.median(floors[method]))
            entry["survived"] = entry["value"] >= min(floor, STABLE)
    return made


def _verdicts(
    settings: SaliencyAudit,
    configurations: Sequence[Configuration],
    alike: _Likeness,
    floors: Mapping[str, Array],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Return of every configuration how like those are that differ in one choice."""
    values = {}
    for item in configurations:
        if item.network != MODEL or item.seed:
            continue
        near = [
            other
            for factor in ("baseline", "variant")
            for other in _neighbours(configurations, item, factor)
        ]
        if near:
            values[item] = np.mean([alike(item, other) for other in near], axis=0)
    told = measures.bootstrap({c.name: v for c, v in values.items()}, _LEVEL, _ROUNDS, rng)
    return [
        {
            "method": item.method,
            "baseline": item.baseline,
            "variant": item.variant,
            "likeness": told[item.name]._asdict(),
            "verdict": _word(told[item.name], float(np.median(floors[item.method]))),
        }
        for item in values
    ]


def _neighbours(
    configurations: Sequence[Configuration], item: Configuration, factor: str
) -> list[Configuration]:
    fixed = [n for n in ("method", "network", "baseline", "variant", "seed") if n != factor]
    return [
        other
        for other in configurations
        if other != item and all(getattr(other, n) == getattr(item, n) for n in fixed)
    ]


def _word(likeness: Estimate, floor: float) -> str:
    ratio = likeness.value / floor
    return "stable" if ratio >= STABLE else "fragile" if ratio >= FRAGILE else "divergent"


def finding(found: Mapping[str, Any], settings: SaliencyAudit) -> Finding:
    """Return the verdict on the map of the configuration that is most like its neighbours."""
    best = max(found["verdicts"], key=lambda entry: entry["likeness"]["value"])
    floor = found["floor"][best["method"]]["value"]
    random = found["networks"][RANDOM][best["method"]]["value"]
    what = f"{best['method']} with baseline {best['baseline']}"
    likeness = (
        f"of the settings tried, {what} changes least: Spearman {best['likeness']['value']:.2f} "
        f"to its neighbours, where two seeds agree to {floor:.2f}"
    )
    if random >= STABLE * best["likeness"]["value"]:
        verdict, advice = "fail", "do not show it: a network with random weights gives the same map"
    elif best["verdict"] == "stable":
        verdict, advice = "ok", "it can be shown with its baseline named"
    elif best["verdict"] == "fragile":
        verdict, advice = "warn", "show it beside the maps of other baselines, never alone"
    else:
        verdict, advice = "fail", "do not show it: another choice gives another map"
    return Finding(
        name="saliency",
        verdict=verdict,  # type: ignore[arg-type]  # one of the three
        summary=f"{likeness}; {advice}",
        tag="measured",
        measurements=found,
    )
