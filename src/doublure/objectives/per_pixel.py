"""Per pixel: an objective on logits, for every pixel of a map of them.

Maps (batch, classes, height, width) become rows (pixels, classes), and the inner objective takes
each row as one sample. Outputs (batch, classes) are such rows already and go on as they are.
Pixels that a batch's mask leaves out are left out; where it leaves out all of them, every term is
0. With a stride of s only every s-th row and column is compared, which costs 1 / s^2 and changes
little: neighbours say nearly the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, FeatureNames, Loss, LossTerms, Outputs, metrics_of
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import AnyObjective, notes_of, open_loss

CARD = Card(
    paper="Liu, Chen, Liu, Qin, Luo, Wang: Structured Knowledge Distillation for Semantic "
    "Segmentation (pixel-wise distillation, eq. 1), arXiv:1903.04197",
    needs=("logits",),
)


def rows_of(
    maps: Float[Tensor, "batch classes height width"], stride: int
) -> Float[Tensor, "batch pixels classes"]:
    """Return the logits of every `stride`-th pixel of each image, row by row."""
    return maps[:, :, ::stride, ::stride].flatten(2).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class PerPixel:
    """Objective: another objective on every pixel. Default: soft targets at T = 1.

    Args:
        objective: on logits of shape (batch, classes).
        stride: every so many rows and columns of a map are compared.
    """

    objective: AnyObjective = field(default_factory=lambda: SoftTargets(temperature=1.0))
    stride: int = 1

    def __post_init__(self) -> None:
        positive("stride", self.stride)

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> "PerPixelLoss":
        return PerPixelLoss(self, open_loss(self.objective, student, teacher, example, rng))


class PerPixelLoss:
    """The loss of an objective on every pixel."""

    def __init__(self, settings: PerPixel, inner: Loss) -> None:
        self._stride, self._inner = settings.stride, inner

    @property
    def features(self) -> FeatureNames:
        return self._inner.features

    @property
    def notes(self) -> tuple[str, ...]:
        return notes_of(self._inner)

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        return metrics_of(self._inner)

    def parameters(self) -> Iterable[nn.Parameter]:
        return self._inner.parameters()

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        stride = self._stride
        if student.output.dim() == 2:
            return self._inner(student, teacher, batch)
        rows = rows_of(student.output, stride)
        counted = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        if batch.mask is not None:
            counted = batch.mask[:, ::stride, ::stride].flatten(1)
        # With nothing to compare, the first pixel is, times 0: a mean over none would be NaN.
        empty = not bool(counted.any())
        if empty:
            counted = torch.zeros_like(counted)
            counted[0, 0] = True
        labels = None
        if batch.labels is not None:
            labels = batch.labels[:, ::stride, ::stride].flatten(1)[counted]
            labels = torch.zeros_like(labels) if empty else labels
        taught = None
        if teacher is not None:
            taught = replace(teacher, output=rows_of(teacher.output, stride)[counted])
        learnt = replace(student, output=rows[counted])
        terms = self._inner(learnt, taught, replace(batch, labels=labels, mask=None))
        return {name: 0 * value for name, value in terms.items()} if empty else terms

    def state_dict(self) -> dict[str, object]:
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        self._inner.load_state_dict(state)
