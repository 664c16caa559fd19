"""Do the objectives that teach best on digits teach best on CIFAR-10, within a family and across?

Real, labelled images, shifted and mirrored, beside which every objective stands at its published
weight: labels alone, plain soft targets, and the five objectives that did best on digits, each also
with a teacher that was never trained. The teacher is the public ResNet-20 (81.0 % on the JPEG test
split); the students are a ResNet-8, and a MobileNetV2 of half width, whose layers are others. Arms
of a seed share initial weights and the order of the images; the test images judge the last step.
Differences are paired by seed and image, with a bootstrap over both.

    DOUBLURE_DATA=... python benchmarks/objectives_cifar10.py --seeds 0 1 2
    DOUBLURE_DATA=... python benchmarks/objectives_cifar10.py --steps 600 --seeds 0
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from cifar10 import public_teacher
from doublure.core.protocols import InputContract, Source
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, batches, open_data
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.sources.augmenting import augmented
from doublure.sources.surrogate import Surrogate
from doublure.verbs.demo import BATCH
from experiments import Table, by_host, print_table, summarize
from objectives_digits import (
    LABELS,
    PLAIN,
    Arm,
    all_arms,
    correct,
    difference,
    judged,
    stages_of,
    train_student,
)
from real_data import cifar10_folder, scratch_folder

STEPS = 1500
TEACHER = "resnet20"
# Of the weights of the teacher that was never trained, the same for all seeds.
UNTRAINED = 0
STUDENTS = ("builtin/resnet8", "builtin/mobilenetv2-0.5")
# The first five of "real images" in results/objectives_digits.json, over five seeds.
CHOSEN = ("wsld", "skewed", "reverse", "pkt", "mlld")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A student and what teaches it."""

    student: str
    teacher: Network
    untrained: Network
    source: Source
    test: Dataset


def decoded(contract: InputContract) -> str:
    """Return the training images as one file, decoded once and not for every run."""
    path = scratch_folder() / "cifar10" / "train.npz"
    if not path.exists():
        data = open_data(cifar10_folder(), contract, labels=True)
        assert data.labels is not None
        pixels = [part.permute(0, 2, 3, 1).numpy() for part, _ in batches(data, 1024)]
        part = path.with_suffix(".part.npz")
        np.savez(part, x=np.concatenate(pixels), y=data.labels.numpy())
        part.replace(path)
    return str(path)


def run(arm: Arm, pair: Pair, trained: bool, seed: int, steps: int) -> dict[str, Any]:
    """Train one student and return its row."""
    teacher = pair.teacher if trained else pair.untrained
    rng = from_seed(child_seed(seed, "student"))
    student = load(NetworkRef(ref=pair.student), like=teacher.contract, rng=rng)
    stages = stages_of(arm, pair.source, steps, labelled=True)
    seconds = train_student(arm, stages, teacher, student, seed)
    return {
        "at": place(pair, trained),
        "arm": arm.name,
        "pair": place(pair, True),
        "teacher": "trained" if trained else "never trained",
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        **judged(student, teacher, pair.test),
    }


def place(pair: Pair, trained: bool) -> str:
    told = f"{TEACHER} -> {pair.student.removeprefix('builtin/')}"
    return told if trained else f"{told}, a teacher never trained"


def gaps(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what each arm has over labels, over soft targets, and over its own control."""
    made = []
    for pair, arm in dict.fromkeys((row["pair"], row["arm"]) for row in rows):
        mine = partial(correct, rows, pair=pair)
        ours = mine(arm=arm, teacher="trained")
        for rival, theirs in (
            (LABELS, mine(arm=LABELS, teacher="trained")),
            (PLAIN, mine(arm=PLAIN, teacher="trained")),
            ("a teacher never trained", mine(arm=arm, teacher="never trained")),
        ):
            gap = difference(ours, theirs)
            if gap is not None and rival != arm:
                made.append({"at": pair, "arm": arm, "over": rival, **gap})
    return made


def main() -> None:
    known = {name: all_arms()[name] for name in (LABELS, PLAIN, *CHOSEN)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", default=list(known), choices=known, metavar="ARM")
    parser.add_argument("--students", nargs="+", default=STUDENTS, metavar="REF")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--teachers", nargs="+", default=["trained", "never-trained"])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--name", default="objectives_cifar10", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    _, teacher = public_teacher(TEACHER)
    untrained = load(
        NetworkRef(ref=f"builtin/{TEACHER}"), like=teacher.contract, rng=from_seed(UNTRAINED)
    )
    images = Surrogate(data=decoded(teacher.contract), labels=True, held_out=0.0)
    test = open_data(cifar10_folder(), teacher.contract, split="test", labels=True)
    setting = {"batch_size": BATCH, "steps": given.steps}
    table = Table(given.name, __doc__.splitlines()[0], setting)
    for seed, student, name in product(given.seeds, given.students, given.arms):
        pair = Pair(
            student=student,
            teacher=teacher,
            untrained=untrained,
            source=augmented(images, "mild", teacher.contract),
            test=test,
        )
        for trained in (which == "trained" for which in given.teachers):
            at = place(pair, trained)
            if table.has(at=at, arm=name, seed=seed, steps=given.steps):
                continue
            if name == LABELS and not trained:
                continue  # labels have no teacher
            row = run(known[name], pair, trained, seed, given.steps)
            table.add(row, ("at", "arm"))
            print(
                f"{at}, {name}, seed {seed}: {row['accuracy']:.2%} in {row['seconds']:.0f} s",
                flush=True,
            )
    found = [
        {"host": host, **gap} for host, made in by_host(table.rows).items() for gap in gaps(made)
    ]
    table.extend(differences=found)
    table.write(("at", "arm"))
    print_table(summarize(table.rows, ("at", "arm")))


if __name__ == "__main__":
    main()
