"""Do steps at half size save time at no loss, and more than fewer steps or progressive resizing?

Poulos, Nouri and Moshovos, arXiv:1910.06548. builtin/resnet8 on CIFAR-10, batch 128, mild
augmentation, judged on the half of the test images that chose nothing. All arms of a seed share
weights and order of images; "full, 70 %" has so many steps and a schedule of that length. Time is
the processor's, of one thread; a share of 0 is held against plain training for what it costs.

    DOUBLURE_DATA=... python benchmarks/interleaved.py --seeds 0 1 2
    DOUBLURE_DATA=... python benchmarks/interleaved.py --arms full "full, 77 %" --steps 300
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch

from doublure.core.protocols import InputContract, Rule
from doublure.core.seeding import child_seed, from_seed
from doublure.data.class_folders import find_split
from doublure.data.datasets import Part, open_data
from doublure.engine.fit import FitSettings
from doublure.engine.recipe import Stage
from doublure.engine.stage_opening import open_stage
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.hard_labels import HardLabels
from doublure.rules.pooled_filters import Filters, PooledFilters, Statistics
from doublure.sources.augmenting import augmented
from doublure.sources.interleaved import Interleaved, InterleavingSchedule
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.evaluation import evaluate
from experiments import Table, clock, of_one_host
from real_data import cifar10_folder
from significance import paired_test

CONTRACT = InputContract(
    size=(32, 32),
    channels=3,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    classes=10,
)
BATCH = 128
FULL = "full"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How one network is trained.

    Args:
        length: share of the steps.
        share: of those, that are small; None leaves the method out.
    """

    name: str
    length: float = 1.0
    share: float | None = None
    schedule: InterleavingSchedule = "random"
    filters: Filters = "split"
    statistics: Statistics = "separate"


def _interleaved(share: float, schedule: InterleavingSchedule, filters: Filters) -> Arm:
    whole = "whole" if filters == "none" else filters
    name = f"{schedule} {share:g}, {whole} filters"
    return Arm(name=name, share=share, schedule=schedule, filters=filters)


ARMS = (
    Arm(name=FULL),
    Arm(name="share 0", share=0.0),
    *(Arm(name=f"full, {length:.0%}", length=length) for length in (0.65, 0.77, 0.9)),
    *(
        _interleaved(share, schedule, filters)
        for share in (0.3, 0.5, 0.2)
        for schedule in ("random", "progressive")
        for filters in ("split", "none")
    ),
    Arm(name="random 0.3, shared statistics", share=0.3, statistics="shared"),
    Arm(name="random 0.3, recalibrated", share=0.3, statistics="recalibrated"),
)


def run(arm: Arm, net: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one network and return its row."""
    rng = from_seed(child_seed(seed, "student"))
    network = load(NetworkRef(ref=f"builtin/{net}"), like=CONTRACT, rng=rng)
    images = Surrogate(data=str(cifar10_folder()), labels=True, held_out=0.0)
    source: Any = augmented(images, "mild", CONTRACT)
    rules: tuple[Rule, ...] = ()
    if arm.share is not None:
        source = Interleaved(source=source, share=arm.share, schedule=arm.schedule)
        rules = (PooledFilters(pooling=arm.filters, statistics=arm.statistics),)
    fit = FitSettings(steps=round(arm.length * steps), batch_size=BATCH)
    stage = Stage(source=source, objective=HardLabels(), fit=fit, rules=rules)
    train = open_stage(stage, None, network, from_seed(child_seed(seed, "stage", 0)))
    began = clock()  # reading the images is the same for all
    result = train()
    seconds = clock() - began
    test = open_data(find_split(cifar10_folder(), "test"), CONTRACT, labels=True)
    judged = Part(whole=test, places=torch.arange(1, len(test), 2))
    score = evaluate(result.network, judged)
    return {
        "net": net,
        "arm": arm.name,
        "seed": seed,
        "steps": fit.steps,
        "seconds": seconds,
        "accuracy": score.accuracy,
        "count": score.count,
        "agreement": 0.0,
        "totals": result.totals,
    }


def tests(table: Table) -> list[dict[str, Any]]:
    """Return for every arm its time and its error beside those of full training."""
    by: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in of_one_host(table.rows):
        by.setdefault((row["net"], row["arm"]), {})[row["seed"]] = row
    found = []
    for (net, arm), rows in by.items():
        seeds = sorted(rows.keys() & by.get((net, FULL), {}).keys())
        if not seeds:
            continue
        full = [by[net, FULL][seed] for seed in seeds]
        own = [rows[seed] for seed in seeds]
        ratio = [a["seconds"] / b["seconds"] for a, b in zip(own, full, strict=True)]
        row = {"net": net, "arm": arm, "seeds": len(seeds), "time": sum(ratio) / len(ratio)}
        row["accuracy"] = sum(r["accuracy"] for r in own) / len(own)
        if len(seeds) > 1 and arm != FULL:
            scores = [[r["accuracy"] for r in rows] for rows in (own, full)]
            row |= vars(paired_test(*scores))
        found.append(row)
    return sorted(found, key=lambda row: -row["time"])


def main() -> None:
    known = {arm.name: arm for arm in ARMS}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=known, default=list(known))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--net", default="resnet8")
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"batch_size": BATCH, "steps": given.steps}
    table = Table("interleaved", __doc__.splitlines()[0], setting)
    keys = ("net", "arm")
    for seed in given.seeds:
        for name in given.arms:
            if table.has(net=given.net, arm=name, seed=seed):
                continue
            row = run(known[name], given.net, seed, given.steps)
            table.add(row, keys)
            table.extend(keys, tests=tests(table))
            print(f"{name}: {row['accuracy']:.2%} in {row['seconds']:.0f} s", flush=True)
    for row in tests(table):
        print(f"{row['net']} {row['arm']:36} {row['time']:5.2f} {row['accuracy']:7.2%}")


if __name__ == "__main__":
    main()
