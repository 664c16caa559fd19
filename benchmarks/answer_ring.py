"""What does a ring of answered views save of a step, and what does it hold?

Teacher: a public CIFAR-10 network, on matched shader images that are drawn before the clock runs.
With and without the ring in turns, in one process; the figures are ratios of the processor's time
of whole steps, the ring filled before. The features in a ring are rounded to float16: the student's
gradient from held answers is set against that from the teacher's own answers to the same views.

    python benchmarks/answer_ring.py
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from cifar10 import public_teacher
from doublure.core.protocols import Batch, Loss, StreamContext, image_batch
from doublure.core.seeding import from_seed
from doublure.engine.answer_ring import Ring
from doublure.engine.distill import TeacherStream, open_distillation, stream_context
from doublure.engine.fit import FitSettings, fit
from doublure.engine.optimizers import AdamW
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.stage_outputs import StageOutputs
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.sources.matched import Matched
from doublure.sources.shaders import Shaders
from experiments import RESULTS, versions

SOFT = SoftTargets(temperature=20.0)
OBJECTIVES: dict[str, AnyObjective] = {
    "soft targets": SOFT,
    "soft targets and stage outputs": Weighted(terms=((0.3, SOFT), (1.0, StageOutputs()))),
}


class Drawn:
    """Source and stream: batches in memory, one after the other."""

    def __init__(self, images: Tensor, count: int) -> None:
        self._batches, self._count = images.split(count), count

    def open(self, context: Any, teacher: Any, rng: torch.Generator) -> "Drawn":
        return self

    def draw(self, step: int, student: Any) -> Batch:
        return image_batch(self._batches[step % len(self._batches)])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Worker:
    """A student, a stream and a loss, ready to take steps."""

    def __init__(
        self, ring: Ring | None, objective: AnyObjective, teacher: Network, source: Drawn, size: int
    ) -> None:
        self.student = load(
            NetworkRef(ref="builtin/resnet8"), like=teacher.contract, rng=from_seed(1)
        )
        self.settings = FitSettings(
            steps=1, batch_size=size, optimizer=AdamW(), learning_rate=1e-3, log_every=10**6
        )
        self.stream, self.loss = open_distillation(
            self.student,
            teacher,
            source,
            objective,
            settings=self.settings,
            context=stream_context(teacher.contract, self.student, self.settings),
            rng=from_seed(0),
            ring=ring,
        )
        self._step = 0

    def fill(self, draws: int) -> None:
        """Draw until so many batches were new."""
        while self._step < 3 * draws:
            self.stream.draw(self._step, self.student)
            self._step += 3

    def __call__(self, steps: int) -> float:
        """Take some steps and return the processor's seconds of one."""
        settings = FitSettings(**{**vars(self.settings), "steps": steps})
        began = time.process_time()
        fit(self.student, _From(self.stream, self._step), self.loss, settings=settings,
            rng=from_seed(0))  # fmt: skip
        self._step += steps
        return (time.process_time() - began) / steps


class _From:
    """A stream from some step on."""

    def __init__(self, stream: TeacherStream, first: int) -> None:
        self._stream, self._first = stream, first
        self.state_dict, self.load_state_dict = stream.state_dict, stream.load_state_dict

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return self._stream.draw(self._first + step, student)


def gradient(student: nn.Module, loss: Loss, batch: Batch, answer: Any) -> Tensor:
    """Return the gradient of the student's weights, as one vector."""
    student.zero_grad(set_to_none=True)
    with FeatureRecorder(student, loss.features.student) as recorder:
        terms = loss(recorder.record(batch.images), answer, batch)
    torch.stack(list(terms.values())).sum().backward()
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


def rounding_error(worker: Worker, batches: int) -> float:
    """Return the largest error of the student's gradient, relative to its length."""
    worst, seen = 0.0, 0
    step = 3 * 100_000
    while seen < batches:
        step += 1
        if step % 3 == 0:  # a new batch is shown with its answer unrounded
            continue
        batch = worker.stream.draw(step, worker.student)
        with torch.no_grad():
            answer = worker.stream.recorder.record(batch.images)
        held, own = (
            gradient(worker.student, worker.loss, batch, its) for its in (batch.teacher, answer)
        )
        worst = max(worst, float((held - own).norm() / own.norm()))
        seen += 1
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="of a turn, a multiple of three")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--drawn", type=int, default=8, help="batches in memory")
    given = parser.parse_args()
    torch.set_num_threads(1)
    _, teacher = public_teacher("resnet20")
    size = given.batch_size
    context = StreamContext(
        contract=teacher.contract, device=torch.device("cpu"), batch_size=size, steps=given.drawn
    )
    stream = Matched(source=Shaders()).open(context, None, from_seed(0))
    images = torch.cat([stream.draw(step, None).images for step in range(given.drawn)])
    rows = []
    for name, objective in OBJECTIVES.items():
        workers = {
            ring: Worker(ring, objective, teacher, Drawn(images, size), size)
            for ring in (None, Ring())
        }
        held = workers[Ring()]
        held.fill(Ring().views // size)
        seconds: dict[Any, list[float]] = {ring: [] for ring in workers}
        for turn in range(given.turns + 1):
            for ring, worker in workers.items():
                taken = worker(given.steps)
                if turn:  # the first one warms up
                    seconds[ring].append(taken)
        ratios = [a / b for a, b in zip(seconds[Ring()], seconds[None], strict=True)]
        told = held.stream.stated()
        kept = sum(
            value.nbytes for part in held.stream.state_dict()["held"] for value in part.values()
        )
        rows.append(
            {
                "objective": name,
                "time_ratio": round(statistics.median(ratios), 3),
                "time_low": round(min(ratios), 3),
                "time_high": round(max(ratios), 3),
                "batches": told["batches"],
                "mebibytes": round(told["bytes"] / 2**20, 1),
                "checkpoint_mebibytes": round(kept / 2**20, 1),
                "gradient_error": float(f"{rounding_error(held, 8):.2g}"),
            }
        )
        print(rows[-1], flush=True)
    whole = {
        "question": __doc__.splitlines()[0],
        "versions": versions(),
        "setting": {"pair": "resnet20 -> resnet8", "batch_size": size, "reuse": Ring().reuse},
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(whole, indent=1) + "\n"
    (RESULTS / "answer_ring.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
