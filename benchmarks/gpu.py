"""The experiments that wait for a CUDA device: run in order within a time limit, resumed at will.

    DOUBLURE_DATA=... python benchmarks/gpu.py --minutes 9 [--data FOLDER] [--work FOLDER]
    python benchmarks/gpu.py --list
    python benchmarks/gpu.py --rehearse

Each entry of the queue is one training; its checkpoints lie in --work, so that a call that ran out
of time is gone on with by the next one on that machine. Rows are written as they are finished, to
results/gpu.json, and what has a row is not run again. Several calls side by side share the queue,
each taking the next entry that nobody has, and a device that one small network leaves idle is used:

    for i in 1 2 3; do python benchmarks/gpu.py --minutes 9 & done; wait

Of the folder of real data three files are needed, 23 MB in all: cifar10-jpeg.tar.xz,
cifar10-resnet/resnet56-4bfd9763.th and multi30k-en-de.tar.xz. On CIFAR-10, JPEG, students of
40 000 steps of 256:

    resnet56 -> resnet20        the public teacher; the shader recipe, and objectives beside labels
    resnet34 -> resnet18        the field's pair, a teacher of 60 epochs; the parts of the recipe
    wrn40-2 -> shufflenetv2     another kind of network, a teacher of 60 epochs; objectives
    translators                 6 + 6 layers -> 2 + 2 on Multi30k, the large setting of
                                translation.py, three seeds, into a file of its own
    resnet34 -> resnet18        the published recipes that need no images, for hours

`--rehearse` runs it on a CPU in a few minutes: two steps of eight images for each entry, by smaller
networks of the same families, on images of noise and on a language of eight words. Published
figures of others stand in docs, never here.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gpu_translators
from doublure import distill, train
from doublure.objectives.dist import DIST
from doublure.objectives.dkd import DKD
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.logit_standardisation import LogitStandardisation
from doublure.objectives.review_kd import ReviewKD
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import AnyObjective, Weighted
from real_data import cifar10_folder, data_folder
from waiting import Bench, Entry, Made, go_on

QUESTION = "What do the shader recipe, its parts and its rivals reach at full schedule?"
STEPS, BATCH, POOL = 40_000, 256, 50_000
TEACHER_STEPS = 60 * 50_000 // BATCH


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A teacher and a student.

    Args:
        public: file of the teacher's weights; without, it is trained here.
    """

    teacher: str
    student: str
    public: str = ""

    def entry(
        self, arm: str, steps: int = STEPS, toy: Mapping[str, str] | None = None, **asked: Any
    ) -> Entry:
        """Return the entry of an arm.

        Args:
            toy: fields of the recipe, besides `set`, for a rehearsal.
            asked: what is asked of `distill`; a transfer of "" is the training split.
        """
        name = f"{self.teacher} -> {self.student}: {arm}"

        def work(bench: Bench) -> Made:
            asked_here = self._teacher(bench) | asked
            if asked_here.get("transfer") == "":
                asked_here["transfer"] = bench.train
            if bench.toy:
                asked_here["set"] = asked_here.get("set", {}) | dict(toy or {})
            # Scores of transfer sets are not what is measured here.
            student = bench.net(self.student)
            return bench.run(distill, name, steps, student=student, audit=False, **asked_here)

        needs = () if self.public else (f"teacher {self.teacher}",)
        return Entry(name=name, work=work, needs=("loop", *needs))

    def _teacher(self, bench: Bench) -> Made:
        if not self.public:
            return {"teacher": str(bench.work / f"teacher-{self.teacher}")}
        known = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "classes": 10}
        weights = None if bench.toy else str(bench.public / self.public)
        return {"teacher": bench.net(self.teacher), "weights": weights, **known}


SMALL = Pair(teacher="resnet56", student="resnet20", public="resnet56-4bfd9763.th")
FIELD = Pair(teacher="resnet34", student="resnet18")
OTHER = Pair(teacher="wrn40-2", student="shufflenetv2")
# In a rehearsal: of the same family where there is a smaller one.
STAND_INS = {
    "resnet56": "resnet8",
    "resnet20": "resnet8",
    "resnet34": "resnet8",
    "resnet18": "resnet8",
    "wrn40-2": "wrn16-1",
}
PARTS = ("attack", "mixup", "balance", "augmentation", "matching")

KD: AnyObjective = Weighted(terms=((0.9, SoftTargets(temperature=4.0)), (0.1, HardLabels())))
# Beside labels, at the published weights: what leads the tables of both pairs in the literature.
OBJECTIVES: dict[str, AnyObjective] = {
    "labels": HardLabels(),
    "soft targets": KD,
    "dkd": Weighted(terms=((1.0, DKD()), (1.0, HardLabels()))),
    "dist": Weighted(terms=((1.0, DIST()), (1.0, HardLabels()))),
    "logit standardisation": Weighted(terms=((1.0, LogitStandardisation()), (1.0, HardLabels()))),
    "review kd": Weighted(terms=((1.0, ReviewKD()), (1.0, HardLabels()))),
}
# Fast's published schedule is 200 epochs of 400 steps.
FAST_10 = {
    "inner_steps": "10",
    "fast-meta.learning_rate": "0.002",
    "code_learning_rate": "0.01",
}
SMALL_POOL = {"pool_size": "64", "attacks_per_chunk": "2"}
FEW_CALLS = {"inner_steps": "1", "first": "1"}
FEW_ITERATIONS = {"optimisation.iterations": "2", "first": "1"}


def queue() -> list[Entry]:
    """Return what is to be run, in order."""
    return [
        Entry(name="loop", work=compare_loops, needs=()),
        teacher("resnet34"),
        shaders(SMALL, "full"),
        objective(SMALL, "soft targets"),
        real(FIELD),
        shaders(FIELD, "full"),
        shaders(FIELD, "full - attack", "attack"),
        shaders(SMALL, "full - attack", "attack"),
        *(objective(SMALL, name) for name in OBJECTIVES if name != "soft targets"),
        *(shaders(FIELD, f"full - {part}", part) for part in PARTS if part != "attack"),
        shaders(FIELD, "noise + attack", transfer="noise"),
        teacher("wrn40-2"),
        *(objective(OTHER, name) for name in OBJECTIVES),
        shaders(OTHER, "full"),
        *gpu_translators.entries(),
        FIELD.entry("fast-10", 80_000, FEW_CALLS, method="fast-meta", set=FAST_10),
        FIELD.entry(
            "fast-10 without adversary",
            80_000,
            FEW_CALLS,
            method="fast-meta",
            set={**FAST_10, "adversarial": "0"},
        ),
        FIELD.entry("dfad", 125_000, method="dfad"),
        # Hours on any one device: last, and gone on with as often as it takes.
        FIELD.entry(
            "adaptive deep inversion", 48_750, FEW_ITERATIONS, method="adaptive-deep-inversion"
        ),
    ]


def teacher(name: str) -> Entry:
    """Return the training of a network on the training split."""

    def work(bench: Bench) -> Made:
        asked = {"net": bench.net(name), "data": bench.train}
        return bench.run(train, f"teacher {name}", TEACHER_STEPS, **asked)

    return Entry(name=f"teacher {name}", work=work)


def shaders(pair: Pair, arm: str, *without: str, transfer: str | None = None) -> Entry:
    """Return a student of the shader recipe, without some of its parts, or on other images."""
    if "balance" in without:
        return pair.entry(arm, without=without, transfer=transfer)
    pool = {"pool_size": str(POOL)}
    return pair.entry(arm, toy=SMALL_POOL, without=without, transfer=transfer, set=pool)


def real(pair: Pair) -> Entry:
    """Return a student that is shown the training split, augmented as the recipe does."""
    return pair.entry("real", transfer="", without=("matching", "balance", "attack", "mixup"))


def objective(pair: Pair, name: str) -> Entry:
    """Return a student of an objective beside labels, on the training split, shifted, mirrored."""
    return pair.entry(
        f"{name}, labelled",
        transfer="",
        labels=True,
        augment="mild",
        without=("mixup",),
        objective=OBJECTIVES[name],
    )


def compare_loops(bench: Bench) -> Made:
    """Compare `distill` with a bare loop on this device."""
    script = Path(__file__).with_name("loop.py")
    out = bench.results.with_name("loop_cuda.json")
    arguments = ["--device", "cuda", "--batch-size", "256", "--steps", "100", "--out", str(out)]
    if bench.toy:
        arguments = ["--batch-size", "8", "--steps", "2", "--turns", "1", "--out", str(out)]
    subprocess.run([sys.executable, str(script), *arguments], check=True)
    return {"rows": json.loads(out.read_text(encoding="utf-8"))["rows"]}


def dry_run(minutes: float) -> None:
    """Run the whole queue at toy size; raise if an entry fails."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (160, 32, 32, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "noise.npz"
        np.savez(data, x=pixels, y=np.arange(160) % 10)
        gpu_translators.write_toy_text(Path(folder))
        bench = Bench(
            question=QUESTION,
            batch_size=BATCH,
            stand_ins=STAND_INS,
            train=str(data),
            test=str(data),
            public=Path(),
            work=Path(folder),
            results=Path(folder) / "gpu.json",
            deadline=time.monotonic() + 60 * minutes,
            toy=True,
        )
        whole = go_on(bench, queue())
        missing = [entry.name for entry in queue() if entry.name not in bench.rows()]
    if missing or not whole:
        raise SystemExit(f"not rehearsed: {', '.join(missing)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--work", type=Path, default=Path("scratch/gpu"))
    parser.add_argument("--data", type=Path, help="CIFAR-10 as train/ and test/ class folders")
    parser.add_argument("--list", action="store_true", help="say what is done and what waits")
    parser.add_argument("--rehearse", action="store_true", help="all of it, tiny, on a CPU")
    given = parser.parse_args()
    if given.dry_run:
        dry_run(given.minutes)
        return
    data = given.data or (Path() if given.list else cifar10_folder())
    bench = Bench(
        question=QUESTION,
        batch_size=BATCH,
        stand_ins=STAND_INS,
        train=str(data / "train"),
        test=str(data / "test"),
        public=Path() if given.list else data_folder() / "cifar10-resnet",
        work=given.work,
        results=given.out / "gpu.json",
        deadline=time.monotonic() + 60 * given.minutes,
    )
    if given.list:
        done = bench.rows()
        for entry in queue():
            print(f"{'done' if entry.name in done else 'waits':6}{entry.name}")
        return
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; the queue waits")
    given.out.mkdir(parents=True, exist_ok=True)
    if not go_on(bench, queue()):
        raise SystemExit("not all of it could be made; see above")


if __name__ == "__main__":
    main()
