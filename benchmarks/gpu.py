"""The experiments that wait for a CUDA device: run in order within a time limit, resumed at will.

    python benchmarks/gpu.py --minutes 9 --out benchmarks/results [--data FOLDER]

Each entry of QUEUE is one training; its checkpoints lie in --work, so that a call that ran out of
time is gone on with by the next one. Rows are written as they are finished, to results/gpu.json.
CIFAR-10 at the field's pair: a ResNet-34 (CIFAR stem) that learns the JPEG training split for 60
epochs, then ResNet-18 students of 40 000 steps of 256, one arm after the other, in the order that
answers the questions soonest; then translators (translation.py, its large setting, into a file of
its own); then the published recipes that need no images at all. Published figures of others stand
in docs, never here.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments import versions

STEPS, BATCH, POOL = 40_000, 256, 50_000
TEACHER_STEPS = 60 * 50_000 // BATCH

# name, what it is shown ("" for shader images, "real" for the training split), what is left out
ARMS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("real", "real", ("matching", "balance", "attack", "mixup")),
    ("full", "", ()),
    ("full - attack", "", ("attack",)),
    ("full - mixup", "", ("mixup",)),
    ("full - balance", "", ("balance",)),
    ("full - augmentation", "", ("augmentation",)),
    ("full - matching", "", ("matching",)),
    ("noise + attack", "noise", ()),
)
# name, recipe, fields of it. Fast's published schedule is 200 epochs of 400 steps.
FAST_10 = {
    "inner_steps": "10",
    "fast-meta.learning_rate": "0.002",
    "code_learning_rate": "0.01",
}
METHODS: tuple[tuple[str, str, int, dict[str, str]], ...] = (
    ("fast-10", "fast-meta", 80_000, FAST_10),
    ("fast-10 without adversary", "fast-meta", 80_000, {**FAST_10, "adversarial": "0"}),
    ("dfad", "dfad", 125_000, {}),
    # Hours on any one device: last, and gone on with as often as it takes.
    ("adaptive deep inversion", "adaptive-deep-inversion", 48_750, {}),
)


class OutOfTimeError(Exception):
    """The limit of this call is reached; the checkpoint holds what was done."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where this call works, and until when."""

    data: Path
    work: Path
    results: Path
    deadline: float

    def watch(self, steps: int, line: dict[str, Any]) -> None:
        """Stop the training when the time is up; its keeper has saved a moment ago."""
        if time.monotonic() > self.deadline:
            raise OutOfTimeError

    def row(self, name: str) -> dict[str, Any] | None:
        return next((row for row in self.rows() if row["name"] == name), None)

    def rows(self) -> list[dict[str, Any]]:
        if not self.results.exists():
            return []
        rows: list[dict[str, Any]] = json.loads(self.results.read_text(encoding="utf-8"))["rows"]
        return rows

    def add(self, row: dict[str, Any]) -> None:
        question = "What do the shader recipe, its parts and its rivals reach at full schedule?"
        rows = [other for other in self.rows() if other["name"] != row["name"]] + [row]
        whole = {"question": question, "versions": versions(), "rows": rows}
        part = self.results.with_suffix(".part")
        part.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        part.replace(self.results)


def train_teacher(bench: Bench) -> dict[str, Any]:
    """Train the ResNet-34 that every arm learns from."""
    from understudy import train

    return train(
        "builtin/resnet34",
        str(bench.data / "train"),
        out=bench.work / "teacher",
        eval=str(bench.data / "test"),
        steps=TEACHER_STEPS,
        batch_size=BATCH,
        device="cuda",
        resume=True,
        watch=bench.watch,
    )


def train_student(bench: Bench, name: str, shown: str, without: Sequence[str]) -> dict[str, Any]:
    """Train one ResNet-18 from scratch on an arm of the shader recipe."""
    return distill_here(
        bench,
        name,
        transfer=str(bench.data / "train") if shown == "real" else shown or None,
        without=without,
        steps=STEPS,
        set={} if "balance" in without else {"pool_size": str(POOL)},
    )


def train_by(
    bench: Bench, name: str, method: str, steps: int, fields: dict[str, str]
) -> dict[str, Any]:
    """Train one ResNet-18 from scratch by a published recipe."""
    return distill_here(bench, name, method=method, steps=steps, set=fields)


def distill_here(bench: Bench, name: str, **asked: Any) -> dict[str, Any]:
    from understudy import distill

    return distill(
        str(bench.work / "teacher"),
        "builtin/resnet18",
        out=bench.work / name.replace(" ", "-"),
        eval=str(bench.data / "test"),
        batch_size=BATCH,
        device="cuda",
        resume=True,
        checkpoint_seconds=20.0,
        watch=bench.watch,
        **asked,
    )


def compare_loops(bench: Bench) -> dict[str, Any]:
    """Compare `distill` with a bare loop on this device."""
    script = Path(__file__).with_name("loop.py")
    arguments = ["--device", "cuda", "--batch-size", "256", "--steps", "100"]
    subprocess.run([sys.executable, str(script), *arguments], check=True)
    return {"rows": json.loads((bench.results.parent / "loop_cuda.json").read_text())["rows"]}


def compare_translators(bench: Bench) -> dict[str, Any]:
    """Teach translators of two layers by one of six."""
    import translation

    setting = translation.SETTINGS["large"]
    work = translation.Bench(
        work=bench.work / "translation", setting=setting, device="cuda", watch=bench.watch
    )
    work.work.mkdir(parents=True, exist_ok=True)
    table = translation.open_table("large")
    translation.measure(work, table, (0, 1, 2))
    return {"rows": table.rows}


def queue() -> list[tuple[str, Callable[[Bench], dict[str, Any]]]]:
    """Return what is to be run, in order."""
    arms = [
        (name, lambda bench, arm=(name, shown, out): train_student(bench, *arm))
        for name, shown, out in ARMS
    ]
    methods = [
        (name, lambda bench, run=(name, *how): train_by(bench, *run)) for name, *how in METHODS
    ]
    translators = ("translators", compare_translators)
    return [("loop", compare_loops), ("teacher", train_teacher), *arms, translators, *methods]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--work", type=Path, default=Path("scratch/gpu"))
    parser.add_argument("--data", type=Path, help="CIFAR-10 as train/ and test/ class folders")
    parser.add_argument("--list", action="store_true", help="say what is done and what waits")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        data=given.data or _cifar10(given.list),
        work=given.work,
        results=given.out / "gpu.json",
        deadline=time.monotonic() + 60 * given.minutes,
    )
    if given.list:
        for name, _ in queue():
            print(f"{'done' if bench.row(name) else 'waits':6}{name}")
        return
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; the queue waits")
    for name, work in queue():
        if bench.row(name) is not None:
            continue
        began = time.monotonic()
        try:
            made = work(bench)
        except OutOfTimeError:
            print(f"{name}: out of time, to be gone on with")
            return
        bench.add({"name": name, "wall_seconds": time.monotonic() - began, **made})
        print(
            f"{name}: {made.get('student_accuracy')} in {time.monotonic() - began:.0f} s",
            flush=True,
        )


def _cifar10(listing: bool) -> Path:
    if listing or "UNDERSTUDY_DATA" not in os.environ:
        return Path()
    from real_data import cifar10_folder

    return cifar10_folder()


if __name__ == "__main__":
    main()
