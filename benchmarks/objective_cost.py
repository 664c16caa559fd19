"""What does a step of each objective cost, over one of plain soft targets?

The same networks and images, all objectives of the catalogue in turns in one process; the figures
are ratios of medians of whole optimizer steps, teacher included, and, of the memory that a step
allocates at its peak, on a GPU the device's own count, elsewhere what torch's profiler sums up.

    python benchmarks/objective_cost.py
"""

import argparse
import gc
import json
import statistics
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from doublure import catalogue
from doublure.core.protocols import Batch, InputContract, image_batch
from doublure.core.seeding import from_seed
from doublure.engine.distill import open_distillation, stream_context
from doublure.engine.fit import FitSettings, fit
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.soft_targets import SoftTargets
from experiments import RESULTS, versions

PLAIN = "soft-targets"
CONTRACT = InputContract(size=(32, 32), channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=10)


class Held:
    """Source and stream: the same labelled images at every step."""

    def __init__(self, batch_size: int, device: str) -> None:
        rng = from_seed(0)
        self._images = torch.rand(batch_size, 3, 32, 32, generator=rng).to(device)
        self._labels = torch.randint(10, (batch_size,), generator=rng).to(device)

    def open(self, context: Any, teacher: Any, rng: torch.Generator) -> "Held":
        self._count = context.batch_size
        return self

    def draw(self, step: int, student: Any) -> Batch:
        index = torch.arange(len(self._images), device=self._images.device)
        return image_batch(self._images, labels=self._labels, index=index)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Worker:
    """One objective, ready to take steps."""

    def __init__(self, objective: Any, given: argparse.Namespace) -> None:
        self._settings = FitSettings(
            steps=given.steps, batch_size=given.batch_size, precision="float32", log_every=10**6
        )
        self._teacher, self._student = (
            load(NetworkRef(ref=ref), like=CONTRACT, rng=from_seed(i)).to(given.device)
            for i, ref in enumerate((given.teacher, given.student))
        )
        context = stream_context(CONTRACT, self._student, self._settings)
        self._stream, self._loss = open_distillation(
            self._student,
            self._teacher,
            Held(given.batch_size, given.device),
            objective,
            settings=self._settings,
            context=context,
            rng=from_seed(0),
        )

    def __call__(self) -> float:
        """Take the steps and return the seconds of one."""
        began = time.perf_counter()
        fit(
            self._student,
            self._stream,
            self._loss,
            settings=self._settings,
            rng=from_seed(0),
        )
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / self._settings.steps


def peak_bytes(worker: Worker, device: str) -> int:
    """Return what a few steps allocate at their peak."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        worker()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        worker()
    level = peak = 0
    events = told.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted(
        (event for event in events if event.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        level += event.nbytes()
        peak = max(peak, level)
    return peak


def main() -> None:
    # Those of images, that a name alone makes.
    objectives = {
        name: entry.settings
        for name, entry in catalogue.by_name(catalogue.OBJECTIVES).items()
        if name != "return-to-go"
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objectives", nargs="+", default=list(objectives), metavar="NAME")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--teacher", default="builtin/resnet20")
    parser.add_argument("--student", default="builtin/resnet8")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="objective_cost", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = [PLAIN, *(name for name in given.objectives if name != PLAIN)]
    workers: dict[str, Worker] = {}
    for name in names:
        settings = objectives[name]
        assert settings is not None
        objective = SoftTargets() if name == PLAIN else settings()
        workers[name] = Worker(objective, given)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(given.turns + 1):
        for name, worker in workers.items():
            taken = worker()
            if turn:  # the first one warms up
                seconds[name].append(taken)
    memory = {name: peak_bytes(worker, given.device) for name, worker in workers.items()}
    rows = []
    for name in names:
        ratios = [a / b for a, b in zip(seconds[name], seconds[PLAIN], strict=True)]
        rows.append(
            {
                "objective": name,
                "time_ratio": round(statistics.median(ratios), 3),
                "time_low": round(min(ratios), 3),
                "time_high": round(max(ratios), 3),
                "memory_ratio": round(memory[name] / max(1, memory[PLAIN]), 3),
            }
        )
        print(
            f"{name:28}{rows[-1]['time_ratio']:6.2f} of the time "
            f"({rows[-1]['time_low']:.2f} to {rows[-1]['time_high']:.2f}), "
            f"{rows[-1]['memory_ratio']:6.2f} of the memory"
        )
    setting = {"pair": f"{given.teacher} -> {given.student}", "batch_size": given.batch_size}
    whole = {"question": __doc__.splitlines()[0], "versions": versions(), "setting": setting}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**whole, "rows": rows}, indent=1) + "\n"
    (RESULTS / f"{given.name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
