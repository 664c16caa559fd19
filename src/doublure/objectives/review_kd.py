"""ReviewKD: fuse the student's deeper stages into its earlier ones, then match the teacher's.

From the last level to the first, with x_i the student's features of level i and r the fused
features of level i + 1, enlarged to the size of x_i (attention-based fusion):
    x = BN(conv1x1(x_i));  (a, b) = sigmoid(conv1x1([x, r]));  r = a x + b r;  y_i = BN(conv3x3(r))
y_i, resized to the teacher's features t_i, is compared with them at several scales (hierarchical
context loss):
    HCL = [ mse(y, t) + sum_k 2^-k mse(pool_s(y), pool_s(t)) ] / [ 1 + sum_k 2^-k ],  s = 4, 2, 1
using only those s that are smaller than the map, the k-th of them with 2^-k.
L = w sum over levels of HCL. The levels are the ends of the stages, before their activation where a
layer has it as its input or output, and the inputs of the classifiers, as maps of one position.
Differs from the paper: stages are paired automatically for any two network families; the warm-up is
counted in steps, and there is none by default.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, LossTerms, Outputs
from doublure.core.seeding import child
from doublure.nets.adapters import conv_adapter
from doublure.nets.features import device_of
from doublure.objectives.pairing import FEATURES, STAGES, Layers, Pairing, pair_layers
from doublure.objectives.warm_up import WarmUp

CARD = Card(
    paper="Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review, arXiv:2104.09044",
    needs=("features",),
    reported={
        "ImageNet top-1, ResNet-34 -> ResNet-18": 71.61,
        "the same, re-run by torchdistill": 71.64,
    },
)
_SCALES = (4, 2, 1)
# Maximum number of channels of a fused level, as in the authors' code.
_WIDEST = 512


def hierarchical_context_loss(
    student: Float[Tensor, "batch channels h w"], teacher: Float[Tensor, "batch channels h w"]
) -> Float[Tensor, ""]:
    """Return the weighted mean of squared differences at full size and at coarser ones."""
    loss, total, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for scale in _SCALES:
        if scale >= student.shape[2]:
            continue
        weight /= 2
        student_pooled, teacher_pooled = (
            F.adaptive_avg_pool2d(x, scale) for x in (student, teacher)
        )
        loss, total = loss + weight * F.mse_loss(student_pooled, teacher_pooled), total + weight
    return loss / total


class Fusion(nn.Module):
    """One level of the review; the deepest level has no other to fuse with."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, rng: torch.Generator, *, deepest: bool
    ) -> None:
        super().__init__()
        self.narrow = conv_adapter(inputs, middle, child(rng, "narrow"))
        self.widen = conv_adapter(middle, outputs, child(rng, "widen"), kernel=3)
        self.attend: nn.Module | None = None
        if not deepest:
            self.attend = conv_adapter(2 * middle, 2, child(rng, "attend"), norm=False)

    def forward(
        self, features: Tensor, residual: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the features to compare, at the teacher's size, and those for the next level."""
        x: Tensor = self.narrow(features)
        if self.attend is not None and residual is not None:
            residual = F.interpolate(residual, x.shape[2:])
            share = self.attend(torch.cat((x, residual), 1)).sigmoid()
            x = x * share[:, :1] + residual * share[:, 1:]
        if x.shape[2:] != size:
            x = F.interpolate(x, size)
        return self.widen(x), x


class ReviewLoss(nn.Module):
    """The loss of knowledge review, computed from the deepest level to the first."""

    def __init__(self, levels: Pairing, weight: float, rng: torch.Generator) -> None:
        super().__init__()
        self.features, self.notes = levels.features, levels.notes
        self._levels, self._weight = levels, weight
        middle = min(_WIDEST, levels.pairs[-1].student.shape[0])
        last = len(levels.pairs) - 1
        self.fusions = nn.ModuleList(
            Fusion(
                pair.student.shape[0],
                middle,
                pair.teacher.shape[0],
                child(rng, "level", i),
                deepest=i == last,
            )
            for i, pair in enumerate(levels.pairs)
        )

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        residual: Tensor | None = None
        losses = []
        pairs = list(zip(self.fusions, self._levels.maps(student, teacher), strict=True))
        for fusion, (student_map, teacher_map) in reversed(pairs):
            fused, residual = fusion(
                student_map, residual, (teacher_map.shape[2], teacher_map.shape[3])
            )
            losses.append(hierarchical_context_loss(fused, teacher_map))
        return {"review": self._weight * torch.stack(losses).sum()}


@dataclass(frozen=True, kw_only=True)
class ReviewKD:
    """Objective: knowledge review.

    Args:
        weight: factor on the sum over levels; 5 on CIFAR, 1 on ImageNet.
        warmup_steps: number of steps over which the term rises from 0.
        layers: layers to compare; the ends of all stages and the classifier's input by default.
    """

    weight: float = 5.0
    warmup_steps: int = 0
    layers: Layers = STAGES

    def __post_init__(self) -> None:
        positive("weight", self.weight)
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> WarmUp:
        levels = pair_layers(self.layers, student, teacher, example, before_activation=True)
        if self.layers == STAGES:
            top = pair_layers(FEATURES, student, teacher, example)
            levels = Pairing(pairs=(*levels.pairs, *top.pairs), left_out=levels.left_out)
        return WarmUp(
            ReviewLoss(levels, self.weight, rng).to(device_of(student)), self.warmup_steps
        )


PUBLISHED = {"cifar100": ReviewKD(), "imagenet": ReviewKD(weight=1.0)}
