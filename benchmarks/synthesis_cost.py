"""What does a student's accuracy cost in synthesis, by DeepInversion and by fast-meta?

On the digits, with the pool, the student's training and the number of images the same for all:
DeepInversion at growing numbers of iterations, so that its accuracy is seen to saturate, against
fast-meta at k = 2, 5 and 10 steps. Cost is that of synthesis alone, in teacher passes (images shown
and gradients back) and in processor seconds on one thread. Fast-meta's w warm-up batches are among
the n that are shown, so their cost is counted and buys images: of passes the factor is then
iterations / k. Thrown away, they would make each of the others (n + w) / n times as dear; that
factor, iterations n / (k (n + w)), is told beside it.

A factor at equal accuracy may be claimed only where the 95 % interval of the difference of
accuracies, over seeds, begins at or above zero.

    python benchmarks/synthesis_cost.py --seeds 0 1 2 3 4
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from doublure.core.protocols import Batch, Source, Stream, StreamContext
from doublure.recipe_file import replace_fields
from experiments import (
    Arm,
    Passes,
    Table,
    counted,
    interval,
    of_one_host,
    pair,
    print_table,
    run_arm,
    summarize,
)
from sources_digits import BATCH, STEPS, STUDENT, TEACHER, arms, teacher_of

WARM_UP = 20  # as in `FastMeta`
ITERATIONS = (25, 50, 100, 250, 500, 1000, 2000)
FAST = ("fast-2", "fast-5", "fast-10")


@dataclass
class Meter:
    """What synthesis has cost so far."""

    passes: Passes
    seconds: float = 0.0
    made: int = 0
    shown: int = 0


@dataclass(frozen=True, kw_only=True)
class Metered:
    """Source: another one, with its draws on the meter."""

    source: Source
    meter: Meter

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "MeteredStream":
        return MeteredStream(self.source.open(context, teacher, rng), self.meter, context)


class MeteredStream:
    def __init__(self, stream: Stream, meter: Meter, context: StreamContext) -> None:
        # The example from which the objective takes its shapes is no part of the run.
        self._stream, self._meter, self._counts = stream, meter, context.batch_size > 2

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        before, began = self._meter.passes.total, time.process_time()
        batch = self._stream.draw(step, student)
        if self._counts:
            self._meter.seconds += time.process_time() - began
            self._meter.shown += self._meter.passes.total - before
            self._meter.made += len(batch.images)
        return batch

    def state_dict(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state)


def contenders(iterations: Sequence[int]) -> dict[str, Arm]:
    """Return DeepInversion at each number of iterations, and the three of fast-meta."""
    known = arms(Path())
    plain = known["DeepInversion"]
    made = {name: known[name] for name in FAST}
    for count in iterations:
        assert plain.stage is not None
        source = replace_fields(plain.stage.source, {"optimisation.iterations": str(count)})
        name = f"DeepInversion-{count}"
        made[name] = Arm(name=name, stage=replace(plain.stage, source=source))
    return made


def metered(arm: Arm, meter: Meter) -> Arm:
    """Return the arm with what is inside its pool on the meter."""
    assert arm.stage is not None
    pool: Any = arm.stage.source
    inside = replace(pool, source=Metered(source=pool.source, meter=meter))
    return replace(arm, stage=replace(arm.stage, source=inside))


def add_seed(table: Table, chosen: dict[str, Arm], seed: int, steps: int) -> None:
    """Add the rows of a seed that are not there yet."""
    missing = [arm for name, arm in chosen.items() if not table.has(arm=name, seed=seed)]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        setting, teacher, test = teacher_of(seed, Path(folder))
        for arm in missing:
            with counted(teacher) as passes:
                meter = Meter(passes)
                row = run_arm(metered(arm, meter), setting, teacher, test, seed=seed, steps=steps)
            row |= {
                "images": meter.made,
                "synthesis_seconds": meter.seconds,
                "synthesis_passes": meter.shown,
            }
            table.add(row, ("arm",))
            print(
                f"{arm.name} seed {seed}: {row['accuracy']:.2%}, {meter.made} images, "
                f"{meter.shown / 1e6:.2f} M passes, {meter.seconds:.1f} s of synthesis",
                flush=True,
            )


def compare(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each of fast-meta, what DeepInversion of at most its accuracy costs more."""
    found = []
    for fast in FAST:
        for other in dict.fromkeys(row["arm"] for row in rows):
            pairs = pair(rows, fast, other)
            if other in FAST or not pairs:
                continue
            gains = [a["accuracy"] - b["accuracy"] for a, b in pairs]
            costs = {
                name: statistics.mean(b[f"synthesis_{name}"] for _, b in pairs)
                / statistics.mean(a[f"synthesis_{name}"] for a, _ in pairs)
                for name in ("passes", "seconds")
            }
            low, high = interval(gains)
            batches = pairs[0][0]["images"] / BATCH
            costs["passes_without_warm_up"] = costs["passes"] * batches / (batches + WARM_UP)
            found.append(
                {"fast": fast, "against": other, "seeds": len(pairs), "low": low, "high": high}
                | {"gain": statistics.mean(gains), **costs, "no_worse": low >= 0}
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of the student")
    parser.add_argument("--iterations", nargs="+", type=int, default=list(ITERATIONS))
    parser.add_argument("--name", default="synthesis_cost", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    told = {"pair": f"{TEACHER} -> {STUDENT}", "steps": given.steps, "batch_size": BATCH}
    table = Table(given.name, __doc__.splitlines()[0], told)
    chosen = contenders(given.iterations)
    for seed in given.seeds:
        add_seed(table, chosen, seed, given.steps)
    rows = compare(of_one_host(table.rows))
    # JSON knows no infinity.
    finite = [
        {k: v for k, v in row.items() if v not in (float("-inf"), float("inf"))} for row in rows
    ]
    table.extend(compared=finite)
    print_table(summarize(table.rows, ("arm",)))
    for row in rows:
        print(
            f"{row['fast']} against {row['against']}: {row['gain']:+.2%} "
            f"({row['low']:+.2%} to {row['high']:+.2%}, n={row['seeds']}), "
            f"{row['passes']:.1f} times fewer passes "
            f"({row['passes_without_warm_up']:.1f} had the warm-up been for nothing), "
            f"{row['seconds']:.1f} times fewer seconds"
            f"{', no worse' if row['no_worse'] else ''}"
        )


if __name__ == "__main__":
    main()
