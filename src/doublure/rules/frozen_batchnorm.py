"""Frozen BatchNorm: the running statistics stay those of the teacher's own training data.

Fine-tuning on other images would move them to the statistics of those images; with noise images
this destroys the network. The affine weights are still trained.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from doublure.core.protocols import Batch


@dataclass(frozen=True, kw_only=True)
class FrozenBatchNorm:
    """Rule: every BatchNorm layer stays in eval mode while the rest of the student trains."""

    def open(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, rng: torch.Generator
    ) -> "FrozenBatchNormHook":
        layers = [
            layer
            for layer in student.modules()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        ]
        return FrozenBatchNormHook(student, layers)


class FrozenBatchNormHook:
    """Puts the layers back into eval mode before each step."""

    def __init__(self, student: nn.Module, layers: list[nn.modules.batchnorm._BatchNorm]) -> None:
        self._student, self._layers = student, layers

    def before_step(self, step: int, batch: Batch) -> None:
        for layer in self._layers:
            layer.eval()

    def after_step(self, step: int) -> None:
        pass

    def finish(self) -> nn.Module:
        return self._student

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
