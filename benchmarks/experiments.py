"""What the distillation benchmarks share: arms, one run of an arm, and results that grow by rows.

An arm is a published recipe with parts swapped or left out. All arms of a table share teacher,
student, initial weights (by seed), batch size, and either the number of steps or the time.
Accuracy on the test split is only ever looked at: the last step is the student, and the learning
curve is drawn with the clock stopped.

There is one clock, the processor time of the process on one thread, preparation included: on the
wall a run would depend on what else the machine does. A row says the kind of its host, the commit
and the clock. Times and, in their last digits, accuracies depend on the host, so rows of different
hosts are never averaged; rows from before hosts were recorded are a host of their own.
"""

import fcntl
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from doublure.core.protocols import Source
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset
from doublure.engine.method import MethodInputs
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.stage_opening import open_stage
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipe_file import replace_keys, to_toml
from doublure.recipes import published
from doublure.tasks.classification.evaluation import evaluate
from doublure.tasks.classification.held_out import answer_held_out
from doublure.tasks.classification.scores import Classification

RESULTS = Path(__file__).parent / "results"
# What a row from before hosts were recorded counts as.
NOT_RECORDED = "not recorded"


def clock() -> float:
    """Return seconds of the one clock: the processor's, or the wall's beside a GPU."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


@cache
def provenance() -> dict[str, str]:
    """Return what a row was made on, by which code, and what its seconds are."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    gpu = torch.cuda.is_available()
    numbers = "bf16" if torch.cpu._is_avx512_bf16_supported() else "float32"
    return {
        "host": torch.cuda.get_device_name(0)
        if gpu
        else f"{cpu}, {os.cpu_count()} cores, {numbers}",
        "commit": _commit(),
        "clock": "wall" if gpu else f"process CPU time, {torch.get_num_threads()} thread",
    }


def _commit() -> str:
    """Return the commit of this file's repository, with a + where the code has changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=RESULTS.parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "../src", "*.py")
    return f"{git('rev-parse', '--short', 'HEAD')}{'+' if changed else ''}"


def host_of(row: Mapping[str, Any]) -> str:
    """Return the kind of host that a row was made on."""
    return str(row.get("host", NOT_RECORDED))


def by_host(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each kind of host."""
    by: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(host_of(row), []).append(row)
    return by


def of_one_host(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the host that made most of them."""
    return max(by_host(rows).values(), key=len, default=[])


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of a table: what is shown, and what the recipe goes without.

    Args:
        stage: a whole method, in place of the shader recipe with parts swapped.
    """

    name: str
    base: Source | None = None
    without: tuple[str, ...] = ()
    stage: Stage | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all arms of a table share."""

    teacher: NetworkRef
    student: str
    batch_size: int
    assignments: dict[str, str]
    curve: int = 4


def recipe_of(arm: Arm, setting: Setting, teacher: Network, seed: int, steps: int) -> Recipe:
    """Return the recipe of an arm."""
    given = MethodInputs(contract=teacher.contract, base=arm.base, without=frozenset(arm.without))
    student = NetworkRef(ref=setting.student)
    made = published("shader-kd", setting.teacher, student, given, seed=seed)
    stage = arm.stage or made.stages[0]
    fit = replace(stage.fit, steps=steps, batch_size=setting.batch_size)
    made = replace(made, stages=(replace(stage, fit=fit),))
    if not setting.assignments:
        return made
    known = to_toml(made)
    present = {key: text for key, text in setting.assignments.items() if f"{key} =" in known}
    return replace_keys(made, present)


@dataclass
class Passes:
    """Images that a network was shown, and gradients that went back to them."""

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[Passes]:
    """Count the passes of a network, and of what is frozen from it meanwhile."""
    passes = Passes()

    def gone_back(gradient: torch.Tensor) -> None:
        passes.backward += len(gradient)

    def shown(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
        images, *others = inputs
        passes.forward += len(images)
        if not (images.requires_grad and torch.is_grad_enabled()):
            return None
        # At what is shown, not at the answer: a loss on inner layers asks for no answer. A view
        # of its own, as the same images may be shown again.
        view = images.view_as(images)
        view.register_hook(gone_back)
        return (view, *others)

    handle = network.register_forward_pre_hook(shown)
    try:
        yield passes
    finally:
        handle.remove()


def run_arm(
    arm: Arm,
    setting: Setting,
    teacher: Network,
    test: Dataset,
    *,
    seed: int,
    steps: int,
) -> dict[str, Any]:
    """Train one student and return its row: accuracy, agreement, curve and cost.

    Seconds are those of `clock`, from before anything is prepared, without the looks in between.
    """
    began, looking = clock(), 0.0
    recipe = recipe_of(arm, setting, teacher, seed, steps)
    student = load(
        recipe.student, like=teacher.contract, rng=from_seed(child_seed(seed, "student"))
    )
    stage = recipe.stages[0]
    every = max(1, stage.fit.steps // setting.curve)
    stage = replace(stage, fit=replace(stage.fit, log_every=every))
    curve: list[dict[str, float]] = []

    def look(line: dict[str, Any]) -> None:
        nonlocal looking
        start = clock()
        spent = start - began - looking
        accuracy = evaluate(student, test).accuracy
        looking += clock() - start
        curve.append(
            {
                "step": line["step"],
                "seconds": spent,
                "passes": passes.total,
                "accuracy": accuracy,
            }
        )

    with tempfile.TemporaryDirectory() as scratch, counted(teacher) as passes:
        rng = from_seed(child_seed(seed, "stage", 0))
        train = open_stage(stage, teacher, student, rng, scratch=Path(scratch))
        result = train(logger=look)
    spent = clock() - began - looking
    score = evaluate(student, test)
    held_out = answer_held_out(stage, seed, teacher, student, count=1024)
    agreement = Classification().agreement([(held_out.student, held_out.teacher)])
    accuracies = [point["accuracy"] for point in curve]
    return {
        "arm": arm.name,
        "seed": seed,
        "steps": stage.fit.steps,
        "seconds": spent,
        "images_per_second": result.images / spent,
        "teacher_forwards": passes.forward,
        "teacher_backwards": passes.backward,
        "accuracy": score.accuracy,
        "correct": score.correct,
        "count": score.count,
        "best_minus_last": max(accuracies) - accuracies[-1],
        "agreement": agreement.value,
        "curve": curve,
        "metrics": result.terms["metrics"],
    }


class Table:
    """Rows in a results file, written one by one; a row that is there is not run again."""

    def __init__(
        self, name: str, question: str, setting: dict[str, Any], folder: Path = RESULTS
    ) -> None:
        self.path = folder / f"{name}.json"
        self.head: dict[str, Any] = {
            "question": question,
            "versions": versions(),
            "setting": setting,
        }
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            self.rows = json.loads(self.path.read_text(encoding="utf-8"))["rows"]

    def has(self, **key: Any) -> bool:
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any], keys: Sequence[str]) -> None:
        """Append a row with its provenance, beside what other processes have written meanwhile."""
        with self._alone():
            self.rows.append(provenance() | row)
            self.write(keys)

    def drop(self, **key: Any) -> None:
        """Take rows out, to be replaced."""
        with self._alone():
            self.rows = [row for row in self.rows if any(row.get(k) != v for k, v in key.items())]
            self.write(("at", "arm"))

    def extend(self, keys: Sequence[str] = ("arm",), **figures: Any) -> None:
        """Add figures over all rows to the head of the file."""
        with self._alone():
            self.head |= figures
            self.write(keys)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from writing, with the rows that they have written by now."""
        self.path.parent.mkdir(exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.path.exists():
                self.rows = json.loads(self.path.read_text(encoding="utf-8"))["rows"]
            yield

    def write(self, keys: Sequence[str]) -> None:
        """Write rows and, per group of `keys`, mean, spread and number of seeds."""
        whole = {**self.head, "summary": summarize(self.rows, keys), "rows": self.rows}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def summarize(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return mean and standard deviation of the accuracy over the seeds of a host, best first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        group = (*(row[key] for key in keys), host_of(row))
        groups.setdefault(group, []).append(row)
    made = []
    for group, members in groups.items():
        accuracies = [row["accuracy"] for row in members]
        made.append(
            dict(zip((*keys, "host"), group, strict=True))
            | {
                "mean": statistics.mean(accuracies),
                "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                "seeds": len(accuracies),
                "agreement": statistics.mean(row["agreement"] for row in members),
                "seconds": statistics.mean(row["seconds"] for row in members),
                "steps": statistics.mean(row["steps"] for row in members),
            }
        )
    return sorted(made, key=lambda row: -row["mean"])


def pair(
    rows: Sequence[dict[str, Any]], one: str, other: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the rows of two arms, seed by seed, of the same host."""
    by = {(row["arm"], row["seed"], host_of(row)): row for row in rows}
    runs = sorted({(row["seed"], host_of(row)) for row in rows})
    return [
        (by[one, *run], by[other, *run])
        for run in runs
        if (one, *run) in by and (other, *run) in by
    ]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean by Student's t; of one value it is everything."""
    if len(values) < 2:
        return float("-inf"), float("inf")
    reach = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return float(mean - reach), float(mean + reach)


def versions() -> dict[str, str]:
    """Return what the figures were made with."""
    packages = {package: version(package) for package in ("torch", "numpy", "doublure")}
    threads = str(torch.get_num_threads())
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else platform.machine()
    return {"python": platform.python_version(), **packages, "threads": threads, "device": device}


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print a summary for the terminal, host by host."""
    host = ""
    for row in sorted(rows, key=host_of):
        if row["host"] != host:
            host = row["host"]
            print(f"on {host}:")
        spread = "  one seed" if row["sd"] is None else f" +- {row['sd']:6.2%}"
        name = " ".join(str(row[key]) for key in row if key in ("at", "arm"))
        print(f"{name:44}{row['mean']:7.2%}{spread}  n={row['seeds']}  {row['seconds']:6.0f} s")
