"""The published methods that make images from a teacher, as arms of a table.

Each has its own objective, optimizer and settings; beside it stands the same without the term that
defines it. What a table chooses for its images and its time (widths, iterations, paces) is a
`Scale`. A run at equal teacher passes, or at equal time, is as long as runs before it say.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from doublure import catalogue
from doublure.core.protocols import Source
from doublure.data.datasets import Dataset
from doublure.engine.fit import FitSettings
from doublure.engine.optimizers import SGD, AdamW
from doublure.engine.recipe import Stage
from doublure.engine.schedules import Cosine
from doublure.nets.network import Network
from doublure.objectives.logit_l1 import LogitL1
from doublure.objectives.soft_targets import SoftTargets
from doublure.recipe_file import replace_fields
from doublure.sources.augmentation import Augmentation, Augmented
from doublure.sources.noise import Noise
from experiments import (
    Arm,
    Setting,
    Table,
    by_host,
    host_of,
    interval,
    pair,
    print_table,
    provenance,
    run_arm,
    summarize,
)

# Steps of the student; less is no training.
_FEWEST = 50
# A run that is further than this share from what was asked for is run again, and marked if that
# brings none nearer.
NEAR = 0.03
_TRIES = 3

_SGD = FitSettings(optimizer=SGD(nesterov=False), schedule=Cosine(warmup=0.0))
_GAME = Stage(source=Noise(), objective=LogitL1(), fit=_SGD)
_ADAM = FitSettings(
    optimizer=AdamW(), learning_rate=2e-3, weight_decay=0.0, schedule=Cosine(warmup=0.0)
)
_TRAINED = Stage(source=Noise(), objective=SoftTargets(temperature=10.0), fit=_ADAM)
_INVERTED = Stage(source=Noise(), objective=SoftTargets(temperature=3.0), fit=_SGD)
_FAST = Stage(
    source=Noise(), objective=SoftTargets(temperature=20.0), fit=replace(_SGD, weight_decay=1e-4)
)
_STEPS = {
    2: {"inner_steps": "2", "learning_rate": "0.005", "code_learning_rate": "0.015"},
    5: {"inner_steps": "5", "learning_rate": "0.003", "code_learning_rate": "0.01"},
    10: {"inner_steps": "10", "learning_rate": "0.002", "code_learning_rate": "0.01"},
}
_NAYER = {
    "inner_steps": "10",
    "noisy_layer": "true",
    "mode": "continue",
    "generator.latent": "1000",
    "learning_rate": "0.004",
    "code_learning_rate": "0.004",
    "renew_every": "20",
    "renew": "whole",
}
_NEVER = "1000000000"

Fields = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a table chooses for its images and its time.

    Args:
        width: of the generators; the published one is 64.
        batch_size: of the student, and of RDSKD's generator.
        inversion: fields of deep inversion.
        competition: weight of the student's disagreement in the adaptive one.
        optimisation: fields of the searches that have no settings of their own.
        smoothness: weight of inceptionism's image prior.
        game: fields of RDSKD.
        views: fields of fast-meta's views.
        pools: pace of the pool around what is kept, by kind of source, or by "".
        shown: how images of a pool are changed before they are shown; None leaves them.
    """

    width: int
    batch_size: int
    inversion: Fields = field(default_factory=dict)
    competition: float = 10.0
    optimisation: Fields = field(default_factory=dict)
    smoothness: float = 1.0
    game: Fields = field(default_factory=dict)
    views: Fields = field(default_factory=dict)
    pools: Mapping[str, Fields]
    shown: Augmentation | None = None


def method_arms(scale: Scale) -> list[Arm]:
    """Return every method, and every one without the term that defines it."""
    inverted = dict(scale.inversion)
    wide = {"generator.width": str(scale.width)}
    batch = str(scale.batch_size)
    game = {**wide, "generator.latent": "100", "generator_batch": batch, **scale.game}
    fast = {**wide, **scale.views}
    optimisation = dict(scale.optimisation)
    adaptive = {**inverted, "competition": str(scale.competition)}
    # name: stage around it, kind of source, its fields.
    kept: dict[str, tuple[Stage, str, Fields]] = {
        "DeepInversion": (_INVERTED, "deep-inversion", inverted),
        "DeepInversion without features": (
            _INVERTED,
            "deep-inversion",
            {**inverted, "features": "0"},
        ),
        "Adaptive DeepInversion": (_INVERTED, "deep-inversion", adaptive),
        "inceptionism": (
            _INVERTED,
            "inceptionism",
            {**optimisation, "smoothness": str(scale.smoothness)},
        ),
        "inceptionism with full prior": (
            _INVERTED,
            "inceptionism",
            {**optimisation, "smoothness": "1"},
        ),
        "inceptionism without prior": (
            _INVERTED,
            "inceptionism",
            {**optimisation, "smoothness": "0"},
        ),
        "BN statistics": (_INVERTED, "batch-norm-statistics", optimisation),
        "BN statistics and labels": (
            _INVERTED,
            "batch-norm-statistics",
            {**optimisation, "cross_entropy": "1"},
        ),
        **{f"fast-{k}": (_FAST, "fast-meta", {**fast, **steps}) for k, steps in _STEPS.items()},
        "fast-5 with fresh generator": (_FAST, "fast-meta", {**fast, "mode": "fresh"}),
        "fast-5 without adversary": (_FAST, "fast-meta", {**fast, "adversarial": "0"}),
        "fast-5 without history": (_FAST, "fast-meta", {**fast, "momentum": "0"}),
        "NAYER-10": (_FAST, "fast-meta", {**fast, **_NAYER}),
    }
    shown_once: dict[str, tuple[Stage, str, Fields]] = {
        "DFAD": (_GAME, "dfad", wide),
        "DFAD with frozen generator": (_GAME, "dfad", {**wide, "imitation_steps": _NEVER}),
        "RDSKD": (_TRAINED, "rdskd", game),
        "RDSKD without diversity": (
            _TRAINED,
            "rdskd",
            {**game, "class_diversity": "0", "sample_diversity": "0"},
        ),
        "RDSKD without diversity of images": (_TRAINED, "rdskd", {**game, "sample_diversity": "0"}),
        "RDSKD without penalty": (_TRAINED, "rdskd", {**game, "combination": "sum"}),
        "RDSKD with 2400 steps": (_TRAINED, "rdskd", {**game, "generator_steps": "2400"}),
    }
    pooled = [
        Arm(name=name, stage=replace(stage, source=pool(kind, source(kind, fields), scale)))
        for name, (stage, kind, fields) in kept.items()
    ]
    drawn = [
        Arm(name=name, stage=replace(stage, source=source(kind, fields)))
        for name, (stage, kind, fields) in shown_once.items()
    ]
    return [*pooled, *drawn]


def source(kind: str, fields: Fields) -> Source:
    """Return a source of the catalogue with fields replaced."""
    made: Source = replace_fields(catalogue.CODEC.settings_of("source", kind)(), fields)
    return made


def pool(kind: str, made: Source, scale: Scale) -> Source:
    """Return a source inside of a pool, at the pace of its kind."""
    around: Any = catalogue.CODEC.settings_of("source", "replay")(source=made)
    pace = scale.pools.get(kind, scale.pools[""])
    around = replace_fields(around, {f"replay.{name}": value for name, value in pace.items()})
    return around if scale.shown is None else Augmented(source=around, augmentation=scale.shown)


@dataclass(frozen=True)
class Length:
    """How long runs are that are held against each other."""

    amount: float
    unit: Literal["steps", "seconds", "passes"]

    def __str__(self) -> str:
        return f"{self.amount:.0f} {self.unit}"


@dataclass
class Gauge:
    """How many steps of each arm come to what is asked for, learned from runs on this machine.

    Of one run a step costs what it did in the last quarter, when pools are filled. As pools grow
    with the steps planned, of several runs it is the line through the two that came nearest. What
    is prepared before step 0 is in it, as it is in what runs come to.

    Args:
        opening: steps of the run that is in no table, from which all is known at first.
    """

    opening: int
    known: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def affordable(self, name: str, asked: Length) -> int:
        """Return how many steps come to what is asked for; 0 if none does."""
        near = sorted(self.known[name], key=lambda point: abs(point[asked.unit] - asked.amount))
        one, other = near[:2]
        steps, spent = one["step"] - other["step"], one[asked.unit] - other[asked.unit]
        if steps * spent <= 0:
            return int(one["step"] * asked.amount / one[asked.unit])
        return max(0, int(one["step"] + (asked.amount - one[asked.unit]) * steps / spent))

    def learn(self, row: Mapping[str, Any]) -> None:
        """Take in what a run came to."""
        points = self.known.setdefault(row["arm"], [row["curve"][-2]])
        points.append({"step": row["steps"], **costs(row)})

    def learn_from(self, table: Table) -> None:
        """Take in the runs of a table that were made on such a host."""
        for row in table.rows:
            if host_of(row) == provenance()["host"]:
                self.learn(row)


def costs(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds and the teacher passes of a row."""
    passes = row["teacher_forwards"] + row["teacher_backwards"]
    return {"seconds": row["seconds"], "passes": passes}


def fill(
    table: Table,
    arms: Sequence[Arm],
    setting: Setting,
    networks: tuple[Network, Dataset],
    seed: int,
    asked: Length,
    gauge: Gauge | None = None,
) -> None:
    """Add the rows of a seed that are not there yet.

    Args:
        networks: the teacher, and the data to judge by.
        gauge: tells how long a run is; None runs the steps that are asked for.
    """
    for arm in arms:
        if is_there(table, arm.name, seed, asked):
            continue
        run = partial(run_arm, arm, setting, *networks, seed=seed)
        if gauge is None:
            row: dict[str, Any] | None = run(steps=round(asked.amount))
        else:
            row = run_as_long(run, arm.name, asked, gauge)
        if row is None:
            print(f"{asked} {arm.name} seed {seed}: too dear")
            continue
        table.add({"at": str(asked), **row}, ("at", "arm"))
        far = f", {row['off']:+.1%} from what was asked for" if row.get("off") else ""
        print(
            f"{asked} {arm.name} seed {seed}: {row['accuracy']:.2%}, {row['steps']} steps, "
            f"{costs(row)['passes'] / 1e6:.2f} M passes, {row['seconds']:.0f} s{far}",
            flush=True,
        )


def is_there(table: Table, arm: str, seed: int, asked: Length) -> bool:
    """Return whether a table has a run; how far one comes in a time, each kind of host says."""
    here = {"host": provenance()["host"]} if asked.unit == "seconds" else {}
    return table.has(arm=arm, seed=seed, at=str(asked), **here)


def run_as_long(
    run: Callable[..., dict[str, Any]], name: str, asked: Length, gauge: Gauge
) -> dict[str, Any] | None:
    """Return the run that came nearest to what is asked for, of three; None if none can.

    One that is not near enough says in "off" which share it took more, or less.
    """
    if name not in gauge.known:
        gauge.learn(run(steps=gauge.opening))
    nearest: tuple[float, dict[str, Any]] | None = None
    for _ in range(_TRIES):
        steps = gauge.affordable(name, asked)
        if steps < _FEWEST:
            break
        row = run(steps=steps)
        gauge.learn(row)
        off = costs(row)[asked.unit] / asked.amount - 1
        if abs(off) <= NEAR:
            return row
        if nearest is None or abs(off) < abs(nearest[0]):
            nearest = off, row
    return None if nearest is None else {**nearest[1], "off": nearest[0]}


def close(table: Table, held_against: Sequence[tuple[str, str]], **figures: Any) -> None:
    """Write what each method gains over what it is held against beside the rows; print both.

    Args:
        figures: more to write.
    """
    table.extend(("at", "arm"), gaps=gaps(table.rows, held_against), **figures)
    print_table(summarize(table.rows, ("at", "arm")))
    for gap in table.head["gaps"]:
        print(
            f"{gap['at']} {gap['arm']} over {gap['against']}: {gap['gain']:+.2%} "
            f"({gap['low']:+.2%} to {gap['high']:+.2%}, n={gap['seeds']})"
        )


def gaps(
    rows: Sequence[dict[str, Any]], held_against: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Return the paired gains at each length, with their 95 % intervals, of two seeds or more."""
    found = []
    for at, host in dict.fromkeys((row["at"], host_of(row)) for row in rows):
        here = [row for row in by_host(rows)[host] if row["at"] == at]
        for arm, against in held_against:
            gains = [a["accuracy"] - b["accuracy"] for a, b in pair(here, arm, against)]
            if len(gains) < 2:
                continue
            low, high = interval(gains)
            told = {"at": at, "host": host, "arm": arm, "against": against, "seeds": len(gains)}
            found.append(told | {"gain": statistics.mean(gains), "low": low, "high": high})
    return found
