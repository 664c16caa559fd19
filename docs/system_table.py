"""The table of the published systems: what each claims, what we measured, and whether it held.

A system is held against its control at the same length, host and seeds: the same without what
defines it, or the plain method in its place. The first comparison whose rows are there is shown,
those on a real network before those on digits. The verdict goes by the 95 % interval of the paired
gain: better, level or worse than the control; undecided where only one seed was run.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cells import RESULTS, by_host, points, table, taken

REAL, TOY = "CIFAR-10", "digits"
NOT_REAL = "not measured on a real network"
# Of Student's t at 97.5 %, by degrees of freedom: paired gains of two to ten seeds.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two arms of a results file.

    Args:
        at: the length or place of the rows; "" where the file has one.
        control_at: of the control's rows, where it is another.
        figure: which of the rows' figures is compared, as a share or in points.
    """

    on: str
    file: str
    arm: str
    control: str
    at: str = ""
    control_at: str | None = None
    figure: str = "accuracy"
    unit: str = "%"


@dataclass(frozen=True, kw_only=True)
class System:
    """A published system by its page, what its paper reports, and what it is held against."""

    page: str
    claim: str
    comparisons: Sequence[Comparison]


NEVER = ", a teacher never trained"
SYSTEMS = (
    System(
        page="shader-kd",
        claim="CIFAR-10 94.0 %, the data themselves 96.0, noise 69.2",
        comparisons=(
            Comparison(
                on=REAL, file="cifar10", at="1000 steps", arm="full", control="noise + attack"
            ),
            Comparison(
                on=REAL, file="cifar10", at="1000 steps", arm="full", control="bare shaders"
            ),
        ),
    ),
    System(
        page="surrogate-kd",
        claim="CIFAR-10 94.7 % by photographs of other things, the data themselves 96.0",
        comparisons=(),
    ),
    System(
        page="deep-inversion",
        claim="CIFAR-10 91.4 %, without feature statistics 30.0",
        comparisons=(
            Comparison(
                on=REAL,
                file="sources_cifar10",
                at="600 seconds",
                arm="DeepInversion",
                control="DeepInversion without features",
            ),
            Comparison(
                on=REAL,
                file="sources_cifar10",
                at="600 seconds",
                arm="DeepInversion",
                control="shaders",
            ),
        ),
    ),
    System(
        page="adaptive-deep-inversion",
        claim="CIFAR-10 93.3 %, without competition 91.4",
        comparisons=(
            Comparison(
                on=REAL,
                file="sources_cifar10",
                at="600 seconds",
                arm="Adaptive DeepInversion",
                control="DeepInversion",
            ),
        ),
    ),
    System(
        page="fast-meta",
        claim="CIFAR-10 94.1 % with 10 steps a batch, DeepInversion 93.3 with 2,000",
        comparisons=(
            Comparison(
                on=REAL,
                file="sources_cifar10",
                at="600 seconds",
                arm="fast-5",
                control="fast-5 with fresh generator",
            ),
            Comparison(
                on=REAL, file="sources_cifar10", at="600 seconds", arm="fast-5", control="shaders"
            ),
        ),
    ),
    System(
        page="dfad",
        claim="CIFAR-10 93.3 %, noise 10.1",
        comparisons=(
            Comparison(
                on=REAL,
                file="sources_cifar10",
                at="600 seconds",
                arm="DFAD",
                control="DFAD with frozen generator",
            ),
        ),
    ),
    System(
        page="rdskd",
        claim="above three other data-free methods on MNIST, CIFAR-10 and SVHN; figures not known",
        comparisons=(
            Comparison(
                on=TOY,
                file="sources_digits",
                at="1500 steps",
                arm="RDSKD",
                control="RDSKD without diversity",
            ),
        ),
    ),
    System(
        page="batch-norm-statistics",
        claim="loses next to nothing against calibration on the data",
        comparisons=(
            Comparison(
                on=REAL,
                file="quantization",
                at="resnet20 W4A4 mse",
                arm="batch-norm-statistics",
                control="real",
            ),
            Comparison(
                on=REAL,
                file="quantization",
                at="resnet20 W4A4 mse",
                arm="batch-norm-statistics",
                control="noise",
            ),
        ),
    ),
    System(
        page="lcw",
        claim="FID 24.2 on MNIST and 118.1 on CIFAR-10 by the auto-encoder it is added to",
        comparisons=(
            Comparison(
                on=REAL, file="lcw_cifar10", arm="cifar10: generated", control="cifar10: normal"
            ),
            Comparison(on=TOY, file="lcw", arm="digits: generated", control="digits: normal"),
        ),
    ),
    System(
        page="activation-boundary",
        claim="more than soft targets where training is short; CIFAR-100 69.5 % on long schedules, "
        "soft targets 70.7",
        comparisons=(
            *(
                Comparison(
                    on=REAL,
                    file="systems_cifar10",
                    at="unlabelled images, 180 seconds",
                    arm="activation boundaries, then soft targets",
                    control=control,
                )
                for control in ("soft targets", "hints, then soft targets")
            ),
            Comparison(
                on=TOY,
                file="objectives_digits",
                at="real images",
                arm="activation boundary, in two stages",
                control="soft targets",
            ),
        ),
    ),
    System(
        page="similarity-preserving",
        claim="CIFAR-10 error 8.1 %, labels alone 8.7",
        comparisons=(
            *(
                Comparison(
                    on=REAL,
                    file="systems_cifar10",
                    at="labelled images, 180 seconds",
                    arm="similarity preserving",
                    control=control,
                )
                for control in ("labels alone", f"similarity preserving{NEVER}")
            ),
            Comparison(
                on=TOY,
                file="objectives_digits",
                at="real images",
                arm="similarity preserving",
                control="labels alone",
            ),
        ),
    ),
    System(
        page="knowledge-representing",
        claim="CIFAR-100 64.0 %, labels alone 58.7",
        comparisons=(
            *(
                Comparison(
                    on=REAL,
                    file="systems_cifar10",
                    at="labelled images, 180 seconds",
                    arm="knowledge representing",
                    control=control,
                )
                for control in ("labels alone", f"knowledge representing{NEVER}")
            ),
            Comparison(
                on=TOY,
                file="objectives_digits",
                at="real images",
                arm="knowledge representing",
                control="knowledge representing",
                control_at=f"real images{NEVER}",
            ),
        ),
    ),
    System(
        page="knowledge-adjustment",
        claim="above soft targets on CIFAR-100, CINIC-10 and Tiny ImageNet; figures not known",
        comparisons=(
            *(
                Comparison(
                    on=REAL,
                    file="knowledge_adjustment",
                    at="labels as they are",
                    arm="adjustment and temperatures",
                    control=control,
                )
                for control in ("soft targets", "mistakes left out")
            ),
            Comparison(
                on=TOY,
                file="objectives_digits",
                at="real images",
                arm="adjustment and temperatures",
                control="soft targets",
            ),
        ),
    ),
    System(
        page="autoaugment-kd",
        claim="ImageNet 85.5 %, without a teacher 84.9",
        comparisons=(
            Comparison(
                on=REAL,
                file="systems_cifar10",
                at="labelled images under AutoAugment, 180 seconds",
                arm="likeliest classes and labels",
                control="labels alone, augmented",
            ),
            Comparison(
                on=TOY,
                file="autoaugment_kd",
                at="autoaugment",
                arm="likeliest classes",
                control="labels alone",
            ),
        ),
    ),
    System(
        page="divergence",
        claim="reverse over forward, +0.7 to +1.1 BLEU in translation",
        comparisons=(
            Comparison(
                on="Multi30k",
                file="translation",
                arm="reverse half on-policy",
                control="forward again",
                figure="bleu",
                unit="BLEU",
            ),
        ),
    ),
    System(
        page="pruning",
        claim="ImageNet 73.3 % of 76.1 after 20 % of the filters, recovered without data",
        comparisons=(
            *(
                Comparison(
                    on=REAL,
                    file="pruning",
                    at="cifar10, 50% of the filters gone",
                    arm="deep-inversion",
                    control=control,
                )
                for control in ("noise", "shaders")
            ),
            Comparison(
                on=TOY,
                file="pruning",
                at="digits, 50% of the filters gone",
                arm="deep-inversion",
                control="noise",
            ),
            Comparison(
                on=TOY,
                file="pruning",
                at="digits, 50% of the filters gone",
                arm="deep-inversion",
                control="shaders",
            ),
        ),
    ),
    System(
        page="continual",
        claim="ImageNet then CUB 67.6 %, without images 47.6",
        comparisons=(
            Comparison(
                on=TOY, file="continual", at="600 steps", arm="deep-inversion", control="lwf"
            ),
            Comparison(
                on=TOY,
                file="continual",
                at="600 steps",
                arm="deep-inversion",
                control="old images without labels",
            ),
        ),
    ),
)


def systems() -> str:
    """Return the table; one line a comparison."""
    rows = []
    for system in SYSTEMS:
        found = [(one, made) for one in system.comparisons if (made := _measured(one)) is not None]
        real = [made for one, made in found if one.on != TOY]
        name, claim = f"[{system.page}]({system.page}.md)", system.claim
        if not real:
            rows.append([name, claim, NOT_REAL, "—", "unmeasured"])
            name = claim = ""
        for made in real or [made for _, made in found]:
            rows.append([name, claim, *made])
            name = claim = ""
    heads = ("system", "its paper's claim", "ours", "its control", "verdict")
    return table(heads, rows)


def _measured(one: Comparison) -> tuple[str, str, str] | None:
    """Return our figure, its control with the paired gain, and the verdict; None without rows."""
    path = RESULTS / f"{one.file}.json"
    if not path.exists():
        return None
    for result in by_host(json.loads(path.read_text(encoding="utf-8"))).values():
        ours = _figures(result, one.arm, one.at, one.figure)
        theirs = _figures(result, one.control, one.control_at or one.at, one.figure)
        seeds = sorted(ours.keys() & theirs.keys())
        if seeds:
            # Shares are told in %, other figures as they are.
            scale = 100 if one.unit == "%" else 1
            pairs = [(scale * ours[seed], scale * theirs[seed]) for seed in seeds]
            return _told(one, pairs, taken(result, one.at, (one.arm, one.control)))
    return None


def _figures(result: Mapping[str, Any], arm: str, at: str, figure: str) -> dict[int, float]:
    """Return a figure of an arm by seed."""
    return {
        row["seed"]: row[figure]
        for row in result["rows"]
        if row["arm"] == arm and at in ("", str(row.get("at", "")))
    }


def _told(one: Comparison, pairs: Sequence[tuple[float, float]], took: str) -> tuple[str, str, str]:
    ours, theirs = (statistics.mean(side) for side in zip(*pairs, strict=True))
    where = f"{one.on}, {one.at}{took}" if one.at and one.on not in one.at else one.on
    seeds = f"{len(pairs)} seeds" if len(pairs) > 1 else "one seed"
    control = one.control if one.control_at is None else one.control_at.rpartition(", ")[2]
    gains = [a - b for a, b in pairs]
    gain = statistics.mean(gains)
    told, verdict = points(gain), "undecided"
    if len(pairs) > 1:
        reach = _T[len(gains) - 2] * statistics.stdev(gains) / len(gains) ** 0.5
        told += f" ({points(gain - reach)} to {points(gain + reach)})"
        verdict = "better" if gain > reach else "worse" if gain < -reach else "level"
    figure = f"{ours:.1f} {one.unit} ({where}, {seeds})"
    return figure, f"{control} {theirs:.1f}: {told}", verdict
