"""Optimizers of a training, as small values; `make` turns one into torch's.

SGD: Sutskever et al., ICML 2013 (momentum and Nesterov's form of it). AdamW: Loshchilov and
Hutter, arXiv:1711.05101.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from doublure.core.checks import positive, share


@runtime_checkable
class Optimizer(Protocol):
    """Settings of an optimizer; learning rate and weight decay are those of the training."""

    def make(
        self, groups: Iterable[dict[str, Any]], *, rate: float, decay: float
    ) -> torch.optim.Optimizer:
        """Return the optimizer of these groups of parameters.

        Args:
            groups: as in torch; a group's own "weight_decay" goes before `decay`.
        """


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Optimizer: stochastic gradient descent.

    Args:
        momentum: weight of the earlier updates; 0 for none.
        nesterov: Nesterov's form of the momentum.
    """

    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        share("momentum", self.momentum)

    def make(
        self, groups: Iterable[dict[str, Any]], *, rate: float, decay: float
    ) -> torch.optim.Optimizer:
        nesterov = self.nesterov and self.momentum > 0  # torch refuses one without the other
        return torch.optim.SGD(
            groups, lr=rate, momentum=self.momentum, weight_decay=decay, nesterov=nesterov
        )


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Optimizer: Adam with weight decay that is not scaled by the gradients' moments.

    Args:
        betas: decay of the moving averages of the gradient and of its square.
        epsilon: added to the root of the second average.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")
        positive("epsilon", self.epsilon)

    def make(
        self, groups: Iterable[dict[str, Any]], *, rate: float, decay: float
    ) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            groups, lr=rate, betas=self.betas, eps=self.epsilon, weight_decay=decay
        )


OPTIMIZERS = (SGD, AdamW)
