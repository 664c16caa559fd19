"""Which source of images serves a student best that never saw a digit?

The demonstration's teacher and student on scikit-learn's digits, with a teacher of its own for each
seed. Every method has its own objective, optimizer and settings; batch size, initial weights and
judges are shared, and beside every method stands the same without the term that defines it. Three
tables: at equal steps of the student, at equal passes of the teacher (images shown to it, and
gradients that went back to them, the answers for the student included), at equal time of one
processor thread. For the latter two, a run is as long as its cost at equal steps says, on a line
through a quarter and all of it; the rows tell what it came to.

    python benchmarks/sources_digits.py --at steps --seeds 0 1 2 3 4
    python benchmarks/sources_digits.py --at passes --seeds 0 1 2 --arms noise DFAD fast-5
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments import Arm, Setting, Table, print_table, run_arm, summarize
from understudy import catalogue
from understudy.data.datasets import Dataset, open_data
from understudy.fit import FitSettings
from understudy.loading import load
from understudy.nets.network import Network
from understudy.nets.references import NetworkRef
from understudy.objectives.logit_l1 import LogitL1
from understudy.objectives.soft_targets import SoftTargets
from understudy.protocols import Source
from understudy.recipe import Stage, replace_fields
from understudy.sources.noise import Noise
from understudy.verbs.demo import BATCH, DATA, STEPS, STUDENT, TEACHER, TEACHER_STEPS
from understudy.verbs.train import train

PASSES, SECONDS = 2_000_000, 60.0
# Half of the published width: at a quarter of the side, generators would cost more than teachers.
WIDTH = 32
# One pace for all methods that keep what they make: a batch every 50 steps behind the first 20.
POOL = {"every": "50", "first": "20"}

# Less is no training.
_FEWEST = 50

_SGD = FitSettings(nesterov=False, warmup=0.0)
_GAME = Stage(source=Noise(), objective=LogitL1(), fit=_SGD)
_ADAM = FitSettings(optimizer="adamw", learning_rate=2e-3, weight_decay=0.0, warmup=0.0)
_TRAINED = Stage(source=Noise(), objective=SoftTargets(temperature=10.0), fit=_ADAM)
_INVERTED = Stage(source=Noise(), objective=SoftTargets(temperature=3.0), fit=_SGD)
_FAST = Stage(
    source=Noise(), objective=SoftTargets(temperature=20.0), fit=replace(_SGD, weight_decay=1e-4)
)

_WIDE = {"generator.width": str(WIDTH)}
# One published epoch of the generator: the paper's 20 are for students of 120,000 steps.
_RDSKD = {
    **_WIDE,
    "generator.latent": "100",
    "generator_batch": str(BATCH),
    "generator_steps": "120",
    "draws_per_step": "1",
}
_SMALL = {**_WIDE, "shift": "1", "flip": "0"}
_STEPS = {
    2: {"inner_steps": "2", "learning_rate": "0.005", "code_learning_rate": "0.015"},
    5: {"inner_steps": "5", "learning_rate": "0.003", "code_learning_rate": "0.01"},
    10: {"inner_steps": "10", "learning_rate": "0.002", "code_learning_rate": "0.01"},
}
_NAYER = {
    "noisy_layer": "true",
    "mode": "continue",
    "generator.latent": "1000",
    "learning_rate": "0.004",
    "code_learning_rate": "0.004",
    "renew_every": "20",
    "renew": "whole",
}
# As `deep_inversion.settings_for` has it below 16 pixels.
_INVERSION = {
    "features": "1",
    "total_variation": "0.002",
    "search.iterations": "250",
    "search.learning_rate": "0.1",
    "search.jitter": "1",
    "search.clamp": "true",
}
_STILL = {"search.iterations": "250", "search.jitter": "1"}

# kind of source, its settings, the method around it, whether what it makes is kept.
_METHODS: dict[str, tuple[str, Mapping[str, str], Stage, bool]] = {
    "DeepInversion": ("deep-inversion", _INVERSION, _INVERTED, True),
    "DeepInversion without features": (
        "deep-inversion",
        {**_INVERSION, "features": "0"},
        _INVERTED,
        True,
    ),
    "Adaptive DeepInversion": (
        "deep-inversion",
        {**_INVERSION, "competition": "1"},
        _INVERTED,
        True,
    ),
    "inceptionism": ("inceptionism", _STILL, _INVERTED, True),
    "inceptionism without prior": (
        "inceptionism",
        {**_STILL, "smoothness": "0"},
        _INVERTED,
        True,
    ),
    "BN statistics": ("batch-norm-statistics", _STILL, _INVERTED, True),
    "BN statistics and labels": (
        "batch-norm-statistics",
        {**_STILL, "cross_entropy": "1"},
        _INVERTED,
        True,
    ),
    "DFAD": ("dfad", _WIDE, _GAME, False),
    "DFAD with frozen generator": (
        "dfad",
        {**_WIDE, "imitation_steps": "1000000000"},
        _GAME,
        False,
    ),
    "RDSKD": ("rdskd", _RDSKD, _TRAINED, False),
    "RDSKD without diversity": (
        "rdskd",
        {**_RDSKD, "class_diversity": "0", "sample_diversity": "0"},
        _TRAINED,
        False,
    ),
    "RDSKD without diversity of images": (
        "rdskd",
        {**_RDSKD, "sample_diversity": "0"},
        _TRAINED,
        False,
    ),
    "RDSKD without penalty": ("rdskd", {**_RDSKD, "combination": "sum"}, _TRAINED, False),
    "RDSKD with 2400 steps": ("rdskd", {**_RDSKD, "generator_steps": "2400"}, _TRAINED, False),
    **{f"fast-{k}": ("fast-meta", {**_SMALL, **steps}, _FAST, True) for k, steps in _STEPS.items()},
    "fast-5 with fresh generator": ("fast-meta", {**_SMALL, "mode": "fresh"}, _FAST, True),
    "fast-5 without adversary": ("fast-meta", {**_SMALL, "adversarial": "0"}, _FAST, True),
    "fast-5 without history": ("fast-meta", {**_SMALL, "momentum": "0"}, _FAST, True),
    "NAYER-10": ("fast-meta", {**_SMALL, **_NAYER, "inner_steps": "10"}, _FAST, True),
}


def arms(lcw: str | None) -> dict[str, Arm]:
    """Return every arm of which the source is there, by name.

    Args:
        lcw: a run of `train-generator lcw`, for an arm of its images.
    """
    made = [
        Arm(name="plain noise", base=Noise(), without=("matching", "balance", "attack")),
        Arm(name="noise", base=Noise(), without=("attack",)),
        Arm(name="noise + attack", base=Noise()),
        Arm(name="shaders", without=("attack",)),
        Arm(name="shaders + attack"),
    ]
    known = {entry.name for entry in (*catalogue.SOURCES, *catalogue.WRAPPERS)}
    for name, (kind, fields, stage, kept) in _METHODS.items():
        if kind in known and (not kept or "replay" in known):
            made.append(Arm(name=name, stage=replace(stage, source=source(kind, fields, kept))))
    if lcw is not None:
        drawn = source("lcw", {"generator": lcw}, False)
        made.append(Arm(name="LCW", base=drawn, without=("attack",)))
    return {arm.name: arm for arm in made}


def source(kind: str, fields: Mapping[str, str], kept: bool) -> Source:
    """Return a source of the catalogue with fields replaced, inside of a pool where it is kept."""
    made: Any = replace_fields(catalogue.settings_of("source", kind)(), fields)
    if not kept:
        return made
    around: Any = catalogue.settings_of("source", "replay")(source=made)
    return replace_fields(around, {f"replay.{name}": value for name, value in POOL.items()})


def teacher_of(seed: int, folder: Path) -> tuple[Setting, Network, Dataset]:
    """Return what the arms of a seed share: setting, teacher, judges."""
    out = folder / "teacher"
    train(TEACHER, DATA, out=out, steps=TEACHER_STEPS, batch_size=BATCH, seed=seed, device="cpu")
    setting = Setting(
        teacher=NetworkRef(ref=str(out)), student=STUDENT, batch_size=BATCH, assignments={}
    )
    teacher = load(str(out))
    return setting, teacher, open_data(DATA, teacher.contract, split="test")


def affordable_steps(row: Mapping[str, Any], cost: str, budget: float) -> int:
    """Return how many steps cost `budget`, going by a row at equal steps; 0 if not one does.

    Args:
        cost: "passes" or "seconds", as the points of the curve have them.
    """
    first, last = row["curve"][0], row["curve"][-1]
    each = (last[cost] - first[cost]) / (last["step"] - first["step"])
    opening = last[cost] - each * last["step"]
    return max(0, int((budget - opening) / each))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at", choices=("steps", "passes", "seconds"), default="steps")
    parser.add_argument("--arms", nargs="+", help="by name; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of the student, at equal steps")
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--lcw", help="a run of train-generator lcw")
    parser.add_argument("--name", default="sources_digits", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    told = {"pair": f"{TEACHER} -> {STUDENT}", "batch_size": BATCH, "generator_width": WIDTH}
    table = Table(given.name, __doc__.splitlines()[0], told | {"pool": POOL})
    known = arms(given.lcw)
    chosen = given.arms or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        parser.error(f"no such arms: {', '.join(unknown)}; known: {', '.join(known)}")
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run_seed(table, [known[name] for name in chosen], seed, Path(folder), given)
    print_table(summarize(table.rows, ("at", "arm")))


def run_seed(
    table: Table, chosen: list[Arm], seed: int, folder: Path, given: argparse.Namespace
) -> None:
    """Add the rows of a seed that are not there yet."""
    by_steps = f"{given.steps} steps"
    at = by_steps if given.at == "steps" else f"{getattr(given, given.at):.0f} {given.at}"
    missing = [arm for arm in chosen if not table.has(arm=arm.name, seed=seed, at=at)]
    if not missing:
        return
    shared = teacher_of(seed, folder)
    for arm in missing:
        if not table.has(arm=arm.name, seed=seed, at=by_steps):
            add_row(table, arm, shared, seed, given.steps, by_steps)
        if at == by_steps:
            continue
        row = next(
            row
            for row in table.rows
            if (row["arm"], row["seed"], row["at"]) == (arm.name, seed, by_steps)
        )
        steps = affordable_steps(row, given.at, getattr(given, given.at))
        if steps < _FEWEST:
            print(f"{at} {arm.name} seed {seed}: too dear, {steps} steps are left of it")
            continue
        add_row(table, arm, shared, seed, steps, at)


def add_row(
    table: Table,
    arm: Arm,
    shared: tuple[Setting, Network, Dataset],
    seed: int,
    steps: int,
    at: str,
) -> None:
    setting, teacher, test = shared
    row = run_arm(arm, setting, teacher, test, seed=seed, steps=steps)
    table.add({"at": at, **row}, ("at", "arm"))
    passes = row["teacher_forwards"] + row["teacher_backwards"]
    print(
        f"{at} {arm.name} seed {seed}: {row['accuracy']:.2%}, {row['steps']} steps, "
        f"{passes / 1e6:.2f} M passes, {row['seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
