"""How much of a bare hand-written loop's speed does `distill` keep?

The same two networks, the same images in memory, the same loss and optimizer, the same precision
and memory layout, taken in turns in one process; the figure is the ratio of the medians.

    python benchmarks/loop.py
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doublure.core.protocols import Batch, InputContract, StreamContext, image_batch
from doublure.core.seeding import from_seed
from doublure.engine.distill import distill, stream_context
from doublure.engine.fit import FitSettings
from doublure.engine.schedules import Cosine
from doublure.nets.builtin import build
from doublure.nets.network import Network
from doublure.objectives.soft_targets import SoftTargets
from experiments import RESULTS, versions

CONTRACT = InputContract(
    size=(32, 32), channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), classes=10
)
TEMPERATURE, RATE, MOMENTUM, DECAY = 4.0, 0.05, 0.9, 5e-4


@dataclass(frozen=True)
class Held:
    """Source: the same images in memory, one batch after the other."""

    images: Tensor

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "HeldStream":
        return HeldStream(self.images, context.batch_size)


class HeldStream:
    def __init__(self, images: Tensor, count: int) -> None:
        self._images, self._count = images, count

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return image_batch(batch_at(self._images, step, self._count))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def batch_at(images: Tensor, step: int, count: int) -> Tensor:
    start = step * count % (len(images) - count + 1)
    return images[start : start + count]


def networks(pair: tuple[str, str], device: str) -> list[Network]:
    torch.manual_seed(0)
    return [Network(build(name, classes=10), CONTRACT).to(device) for name in pair]


def bare_loop(pair: tuple[str, str], images: Tensor, settings: FitSettings) -> float:
    """Return the seconds of a loop as one writes it by hand."""
    teacher, student = networks(pair, images.device.type)
    teacher.eval().to(memory_format=torch.channels_last)
    student.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    half = settings.precision == "bfloat16"
    began = time.perf_counter()
    for step in range(settings.steps):
        x = batch_at(images, step, settings.batch_size).to(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            with torch.no_grad():
                answer = teacher(x)
            guess = student(x)
        p, q = answer.float() / TEMPERATURE, guess.float() / TEMPERATURE
        divergence = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True,
                              reduction="batchmean")  # fmt: skip
        optimizer.zero_grad(set_to_none=True)
        (TEMPERATURE**2 * divergence).backward()
        optimizer.step()
        schedule.step()
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def our_loop(pair: tuple[str, str], images: Tensor, settings: FitSettings) -> float:
    """Return the seconds of `distill`, opening included."""
    teacher, student = networks(pair, images.device.type)
    context = stream_context(CONTRACT, student, settings)
    began = time.perf_counter()
    distill(
        student,
        teacher,
        Held(images),
        SoftTargets(temperature=TEMPERATURE),
        settings=settings,
        context=context,
        rng=from_seed(0),
    )
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a results file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = torch.rand(2048, 3, 32, 32, device=given.device)
    rows = []
    for pair in (("resnet20", "resnet8"), ("convnet-32", "convnet-16")):
        for precision in ("float32", "bfloat16"):
            settings = FitSettings(
                steps=given.steps,
                batch_size=given.batch_size,
                learning_rate=RATE,
                schedule=Cosine(warmup=0.0),
                precision=precision,
            )
            bare_loop(pair, images, settings), our_loop(pair, images, settings)
            seconds = [
                (bare_loop(pair, images, settings), our_loop(pair, images, settings))
                for _ in range(given.turns)
            ]
            shown = settings.steps * settings.batch_size
            row = {
                "pair": " -> ".join(pair),
                "precision": precision,
                "bare_images_per_second": shown / statistics.median(s[0] for s in seconds),
                "distill_images_per_second": shown / statistics.median(s[1] for s in seconds),
                "ratio": statistics.median(bare / ours for bare, ours in seconds),
                "ratio_range": [min(b / o for b, o in seconds), max(b / o for b, o in seconds)],
            }
            rows.append(row)
            print(f"{row['pair']} {precision}: ratio {row['ratio']:.3f}", flush=True)
    result = {"question": __doc__.splitlines()[0], "versions": versions(), "rows": rows}
    name = "loop.json" if given.device == "cpu" else f"loop_{given.device}.json"
    (given.out or RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
