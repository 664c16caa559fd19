"""Does the default recipe, `auto`, hold its own against the published ones on small digits?

Teachers learn scikit-learn's digits, at 8 pixels or at 28; each teaches a network of a quarter of
its parameters without data, within the same time of one processor thread: preparation, images, the
teacher's answers and the training count, judging does not. Every recipe is planned for that time as
`--budget` plans it, and corrected on the way. The last step is the student.

The digits that no network saw are divided: of each class the first half is for the report, the
second is for choices.

    python benchmarks/main_job_digits.py --size 8 --seeds 0 1 2
    python benchmarks/main_job_digits.py --size 28 --seeds 0
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, Part, open_data
from doublure.engine.fit import FitSettings
from doublure.engine.method import MethodInputs
from doublure.engine.pacing import Pacer
from doublure.engine.planning import within_budget
from doublure.engine.processes import process_group
from doublure.engine.stage_opening import open_stage, stage_rng
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipes import METHODS
from doublure.tasks.classification.auto import network_facts
from doublure.tasks.classification.evaluation import evaluate
from doublure.verbs.train import train
from experiments import Table, clock, interval, provenance

DATA, TEACHER, STUDENT = "builtin/digits", "builtin/convnet-32", "builtin/convnet-16"
TEACHER_STEPS = {8: 800, 28: 400}
SECONDS = 60.0
# name: method, and what of it is left out.
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "auto": ("auto", ()),
    "shader-kd": ("shader-kd", ()),
    "shader-kd, bare": ("shader-kd", ("augmentation", "mixup", "attack")),
    "fast-meta": ("fast-meta", ()),
    "deep-inversion": ("deep-inversion", ()),
    "adaptive-deep-inversion": ("adaptive-deep-inversion", ()),
    "dfad": ("dfad", ()),
    "rdskd": ("rdskd", ()),
    "auto - inherit": ("auto", ("inherit",)),
    "auto - inversion": ("auto", ("inversion",)),
    "auto - ring": ("auto", ("ring",)),
    "auto - stage-outputs": ("auto", ("stage-outputs",)),
    "auto - mixup": ("auto", ("mixup",)),
    "auto - augmentation": ("auto", ("augmentation",)),
}


def halves(teacher: Network) -> tuple[Dataset, Dataset]:
    """Return the digits for choices, the second half of each class, and for the report."""
    test = open_data(f"{DATA}:test", teacher.contract, split="test", labels=True)
    assert test.labels is not None
    seen = torch.zeros(len(test), dtype=torch.bool)
    for label in range(teacher.contract.classes):
        places = (test.labels == label).nonzero()[:, 0]
        seen[places[: len(places) // 2]] = True
    first, second = (mask.nonzero()[:, 0] for mask in (seen, ~seen))
    return Part(whole=test, places=second), Part(whole=test, places=first)


def run(
    arm: str, reference: NetworkRef, teacher: Network, data: Sequence[Dataset], seed: int
) -> dict[str, Any]:
    """Train one student and return its row.

    Args:
        data: for choices, and for the report.
    """
    method, without = ARMS[arm]
    began = clock()
    named = NetworkRef(ref=STUDENT)
    student = load(named, like=teacher.contract, rng=from_seed(child_seed(seed, "student")))
    given = MethodInputs(
        contract=teacher.contract,
        without=frozenset(without),
        facts=network_facts(teacher, student, given_weights=False),
    )
    recipe = METHODS[method].recipe(reference, named, given, seed=seed)
    with process_group(cpu=True) as alone:
        recipe = within_budget(recipe, teacher, student, SECONDS, alone, clock)
    (stage,) = recipe.stages

    def adopt(settings: FitSettings) -> FitSettings:
        nonlocal stage
        stage = replace(stage, fit=settings)
        return settings

    pacer = Pacer(began + SECONDS, clock, adopt, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        opened = open_stage(stage, teacher, student, stage_rng(recipe, 0), scratch=Path(scratch))
        opened(pacing=pacer)
    seconds = clock() - began
    design, report = (evaluate(student, part).accuracy for part in data)
    taught = [evaluate(teacher, part).accuracy for part in data]
    return {
        "seed": seed,
        "steps": stage.fit.steps,
        "batch_size": stage.fit.batch_size,
        "seconds": seconds,
        "accuracy": report,
        "design": design,
        "teacher": taught[1],
        "kept": report / taught[1],
        "agreement": 0.0,
        "plan": list(recipe.plan),
        **provenance(),
    }


def close(table: Table) -> None:
    """Write what `auto` gains over each arm by seed; print every row."""
    found = []
    for at in dict.fromkeys(row["at"] for row in table.rows):
        here = [row for row in table.rows if row["at"] == at]
        for arm in ARMS:
            rows = [row for row in here if row["arm"] == arm]
            if not rows:
                print(f"{at} {arm}: not run")
                continue
            for row in rows:
                print(
                    f"{at} {arm} seed {row['seed']}: {row['accuracy']:.1%} of {row['teacher']:.1%} "
                    f"(design {row['design']:.1%}), {row['steps']:,} steps of "
                    f"{row['batch_size']}, {row['seconds']:.0f} s"
                )
            both = {name: [row for row in here if row["arm"] == name] for name in ("auto", arm)}
            seeds = {row["seed"] for row in both["auto"]} & {row["seed"] for row in both[arm]}
            if arm == "auto" or not seeds:
                continue
            gains = [
                one["accuracy"] - other["accuracy"]
                for one in both["auto"]
                for other in both[arm]
                if one["seed"] == other["seed"]
            ]
            told = {"at": at, "over": arm, "gain": sum(gains) / len(gains), "seeds": len(gains)}
            if len(gains) > 1:
                told["interval"] = list(interval(gains))
            found.append(told)
            print(f"  auto gains {told['gain']:+.1%} over {arm} ({told.get('interval')})")
    table.extend(("at", "arm"), gains=found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, choices=TEACHER_STEPS, default=8)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[])
    parser.add_argument("--name", default="main_job_digits", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"pair": f"{TEACHER} -> {STUDENT}", "seconds": SECONDS}
    table = Table(given.name, __doc__.splitlines()[0], setting)
    at = f"{given.size} pixels"
    for seed in given.seeds if given.arms else ():
        folder = Path(tempfile.gettempdir()) / f"main-job-digits-{given.size}-{seed}"
        if not (folder / "report.html").exists():
            train(
                TEACHER,
                DATA,
                out=folder,
                size=given.size,
                steps=TEACHER_STEPS[given.size],
                batch_size=128 if given.size == 8 else 64,
                seed=seed,
                overwrite=True,
            )
        reference = NetworkRef(ref=str(folder))
        teacher = load(reference)
        data = halves(teacher)
        for arm in given.arms:
            if table.has(at=at, arm=arm, seed=seed):
                continue
            row = run(arm, reference, teacher, data, seed)
            table.add({"at": at, "arm": arm, **row}, ("at", "arm"))
            print(
                f"{at} {arm} seed {seed}: {row['accuracy']:.1%} of {row['teacher']:.1%} (design "
                f"{row['design']:.1%}), {row['steps']:,} steps, {row['seconds']:.0f} s",
                flush=True,
            )
    close(table)


if __name__ == "__main__":
    main()
