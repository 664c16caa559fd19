"""The loss whose gradient tells what a channel is worth; see `compress.pruning`.

Of maps, where every pixel is answered, an image's loss is the mean over its pixels that count, in
every fourth row and column.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from doublure.core.protocols import Batch, Outputs
from doublure.objectives.hard_labels import hard_label_loss
from doublure.objectives.per_pixel import rows_of
from doublure.objectives.soft_targets import soft_target_loss

PruningLoss = Literal["fisher", "labels", "kl"]
_STRIDE = 4


def fisher_loss(
    logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    rng: torch.Generator,
) -> Float[Tensor, " batch"]:
    """Return -log q_y' of each sample, with y' sampled from the teacher's probabilities."""
    probabilities = teacher_logits.detach().softmax(-1).cpu()
    labels = torch.multinomial(probabilities, 1, generator=rng)[:, 0]
    return F.cross_entropy(logits, labels.to(logits.device), reduction="none")


def loss_function(loss: PruningLoss, rng: torch.Generator) -> Callable[[Tensor, Batch], Tensor]:
    """Return the function of logits and a batch that gives the loss of each image."""

    def loss_of_batch(logits: Tensor, batch: Batch) -> Tensor:
        teacher_logits = logits.detach() if batch.teacher is None else batch.teacher.output
        if logits.dim() == 4:
            return _mean_over_pixels(loss, logits, teacher_logits, batch, rng)
        if loss == "fisher":
            return fisher_loss(logits, teacher_logits, rng)
        if loss == "kl":
            return soft_target_loss(logits, teacher_logits, 1.0)
        if batch.labels is None:
            raise ValueError("loss='labels' needs labels, but the set has none; use loss='fisher'")
        return hard_label_loss(logits, batch.labels, 0.0)

    return loss_of_batch


def _mean_over_pixels(
    loss: PruningLoss, logits: Tensor, teacher_logits: Tensor, batch: Batch, rng: torch.Generator
) -> Float[Tensor, " batch"]:
    """Return the loss of each image of a batch of maps: the mean of its pixels that count."""
    rows, taught = (rows_of(maps, _STRIDE).flatten(0, 1) for maps in (logits, teacher_logits))
    labels = batch.labels
    counted = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    if labels is not None and loss == "labels":
        labels = labels[:, ::_STRIDE, ::_STRIDE].flatten()
        if batch.mask is not None:
            counted = batch.mask[:, ::_STRIDE, ::_STRIDE].flatten()
            labels = labels.where(counted, 0)
    answered = Batch(views=batch.views, labels=labels, teacher=Outputs(output=taught))
    losses = loss_function(loss, rng)(rows, answered) * counted
    return losses.view(len(logits), -1).sum(1) / counted.view(len(logits), -1).sum(1).clamp(min=1)
