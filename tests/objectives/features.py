"""Pairs of networks that see the same images, for objectives that compare layers."""

from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.protocols import Batch, Loss, Outputs, image_batch
from doublure.nets import builtin
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import freeze
from doublure.objectives.weighted import open_loss

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
BATCH = image_batch(IMAGES, labels=LABELS, index=torch.arange(6))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Return seeded float64 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builtin.build(name, classes=5, size=(16, 16))


def opened(objective: Any, student: nn.Module, teacher: nn.Module, seed: int = 0) -> Loss:
    rng = torch.Generator().manual_seed(seed)
    return open_loss(objective, student, freeze(teacher), BATCH, rng)


def asked(
    loss_fn: Loss, student: nn.Module, teacher: nn.Module, batch: Batch = BATCH
) -> dict[str, Tensor]:
    """Return the terms of a loss about what two networks say of a batch."""
    with FeatureRecorder(student, loss_fn.features.student) as recorder:
        ours: Outputs = recorder.record(batch.images)
    with FeatureRecorder(freeze(teacher), loss_fn.features.teacher) as recorder, torch.no_grad():
        theirs = recorder.record(batch.images)
    return loss_fn(ours, theirs, batch)


def learns(objective: Any, student: str, teacher: str, steps: int = 12) -> tuple[float, float]:
    """Return the loss of a pair before and after some steps of its optimizer."""
    one, other = built(student, 1), built(teacher)
    loss_fn = opened(objective, one, other)
    optimizer = torch.optim.Adam([*one.parameters(), *loss_fn.parameters()], lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = torch.stack(list(asked(loss_fn, one, other).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]
