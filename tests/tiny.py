"""Networks and sources small enough for a test to train in a blink."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from doublure.core.protocols import Batch, InputContract, StreamContext, image_batch
from doublure.core.seeding import child, from_seed
from doublure.engine.fit import FitSettings
from doublure.nets.generators import GeneratorPlan
from doublure.sources.image_optimisation import ImageOptimisation

SEARCH = ImageOptimisation(iterations=3, coarse_iterations=2, learning_rate=0.2)
GENERATOR = GeneratorPlan(latent=8, width=4)
CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=3)


def write_labelled(folder: Path) -> str:
    """Return a .npz of labelled images in a folder."""
    path, drawn = folder / "labelled.npz", np.random.default_rng(0)
    np.savez(path, x=drawn.integers(0, 256, (80, 8, 8), dtype=np.uint8), y=np.arange(80) % 3)
    return str(path)


def network(seed: int, width: int = 4) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * width, 3),
        )


def settings(**changes: Any) -> FitSettings:
    return FitSettings(**({"steps": 12, "batch_size": 8, "log_every": 4} | changes))


def context(fit: FitSettings | None = None, **changes: Any) -> StreamContext:
    fit = fit or settings()
    fields = {"batch_size": fit.batch_size, "steps": fit.steps, "device": torch.device("cpu")}
    return StreamContext(contract=CONTRACT, **(fields | changes))


def rng(seed: int = 0) -> torch.Generator:
    return from_seed(seed)


@dataclass(frozen=True, kw_only=True)
class Grey:
    """Uniform noise; with labels where asked."""

    labels: bool = False

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "GreyStream":
        return GreyStream(context, rng, labels=self.labels)


class GreyStream:
    def __init__(self, context: StreamContext, rng: torch.Generator, *, labels: bool) -> None:
        self.context, self.rng, self.labels = context, rng, labels

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        numbers = child(self.rng, self.context.split, self.context.rank, step)
        shape = (self.context.batch_size, 1, 8, 8)
        images = torch.rand(shape, generator=numbers)
        labels = torch.randint(3, shape[:1], generator=numbers) if self.labels else None
        return image_batch(images, labels=labels, metrics={"brightness": images.mean()})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Memory:
    """A checkpointer that saves after given steps and gives back what it holds."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.states: list[dict[str, Any]] = []
        self.held: dict[str, Any] | None = None

    def due(self, step: int) -> bool:
        return step in self.steps

    def save(self, state: dict[str, Any]) -> None:
        import copy

        self.states.append(copy.deepcopy(state))

    def load(self) -> dict[str, Any] | None:
        return self.held


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
