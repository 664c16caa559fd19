"""A stream that optimises every batch from noise, for a loss on the teacher's outputs.

This file computes the inputs of such a loss: the images, the teacher's logits, and the moments of
the inputs of its layers. It also measures each finished batch, clipped to [0, 1]: whether the
teacher predicts the labels, and the distance of the feature statistics.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from doublure.core.checks import one_of
from doublure.core.protocols import Batch, OptimisationPath, StreamContext, image_batch
from doublure.core.seeding import child
from doublure.data.checkpoints import first_line
from doublure.data.datasets import batches, open_data
from doublure.nets.batchnorm_statistics import (
    Moments,
    MomentsAverage,
    MomentsPool,
    MomentsRecorder,
    Stored,
    batchnorm_layers,
    feature_statistics_loss,
    measured_statistics,
    normalising_layers,
    stored_statistics,
)
from doublure.nets.patch_similarity import PatchRecorder, attention_layers, patch_entropy
from doublure.sources.image_optimisation import ImageOptimisation, Images, Keep, Optimised

Labels = Literal["balanced", "random"]
_Recorders = tuple[MomentsRecorder, PatchRecorder]
# Batch size for measuring statistics.
_MEASURED_AT_ONCE = 64


class LossInputs(NamedTuple):
    """The arguments of a loss.

    Args:
        normalised: the optimised images, in the network's normalised space.
        images: the same in [0, 1], rolled, as the input of teacher and student.
        logits: the teacher's logits.
        moments: moments of the inputs of the layers with known statistics; combined with those of
            earlier batches if the stream has a history.
        patches: patch features of each attention layer, if requested.
    """

    normalised: Images
    images: Images
    logits: Float[Tensor, "batch classes"]
    moments: Mapping[str, Moments]
    patches: tuple[Float[Tensor, "batch patches dim"], ...] = ()


# Returns the loss for these labels, and for this student if there is one.
LossMaker = Callable[[Tensor, nn.Module | None], Callable[[LossInputs], Tensor]]


def check_labels(labels: str) -> None:
    """Raise unless `labels` is a known way to choose labels."""
    one_of("labels", labels, get_args(Labels))


def labels_in_turn(
    start: int, count: int, classes: int, rng: torch.Generator
) -> Int64[Tensor, " batch"]:
    """Return labels `start` to `start + count` of an endless sequence of class permutations."""
    positions = torch.arange(start, start + count)
    rounds = range(start // classes, (start + count - 1) // classes + 1)
    permutations = {n: torch.randperm(classes, generator=child(rng, "round", n)) for n in rounds}
    return torch.stack([permutations[int(p) // classes][p % classes] for p in positions])


def require_teacher(teacher: nn.Module | None) -> nn.Module:
    """Return the teacher, or raise if there is none."""
    if teacher is None:
        raise ValueError("inversion needs a teacher, but there is none; set --teacher")
    return teacher


def known_statistics(
    teacher: nn.Module, context: StreamContext, images: str | None, *, needed: bool
) -> dict[str, Stored]:
    """Return the target statistics of the inputs of the teacher's layers.

    Args:
        images: a set on which to measure them, before each normalisation layer; None uses the
            statistics stored in BatchNorm layers.
        needed: whether to raise if there are none.
    """
    if images is not None:
        data = open_data(images, context.contract, split="train")
        parts = (
            part.to(context.device).float() / 255 for part, _ in batches(data, _MEASURED_AT_ONCE)
        )
        return measured_statistics(teacher, normalising_layers(teacher), parts)
    if batchnorm_layers(teacher):
        return stored_statistics(teacher)
    if needed and attention_layers(teacher):
        raise ValueError(
            "inversion needs BatchNorm statistics, but the teacher has no BatchNorm layer; it is a "
            "transformer: use its patch similarities instead (deep-inversion with features=0 and "
            "patches=1, or inceptionism with patches=1), or measure statistics on images "
            "(statistics=DATA)"
        )
    return stored_statistics(teacher) if needed else {}


class InvertedStream:
    """A stream that optimises every batch; a function of (seed, step, history, student).

    Args:
        labels: how labels are chosen; None for images without labels.
        history: moments of earlier batches, combined with those of a batch; None for none.
        attention: attention layers of the teacher whose patch features are recorded.
    """

    def __init__(
        self,
        losses: LossMaker,
        optimisation: ImageOptimisation,
        labels: Labels | None,
        context: StreamContext,
        teacher: nn.Module,
        known: Mapping[str, Stored],
        rng: torch.Generator,
        history: MomentsPool | MomentsAverage | None = None,
        attention: Sequence[str] = (),
    ) -> None:
        self._losses, self._labels, self._context, self._rng = losses, labels, context, rng
        self._optimisation = optimisation.draft() if context.draft else optimisation
        self._teacher, self._known, self._history = teacher, known, history
        self._attention = attention

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return self.draw_followed(step, student, (), 0)[0]

    def draw_followed(
        self, step: int, student: nn.Module | None, shares: Sequence[float], num_images: int
    ) -> tuple[Batch, OptimisationPath]:
        """Return the batch of this step, and its first images after shares of the iterations.

        If the optimisation stopped early, later shares have no images.
        """
        labels = self._choose(step).to(self._context.device)
        planned = self._optimisation.iterations + self._optimisation.coarse_iterations
        keep = Keep(at={round(share * planned) for share in shares}, images=num_images)
        with self._recorders() as recorders:
            optimised = self._optimise(step, student, labels, recorders, keep)
            with torch.no_grad():
                logits, moments, patches = self._evaluate(optimised.images, recorders)
        metrics = {
            "image_passes": torch.tensor(optimised.image_passes),
            "inversion_loss": optimised.loss,
        }
        if self._known:
            metrics["feature_distance"] = feature_statistics_loss(moments, self._known, 1.0)
        if patches:
            metrics["patch_entropy"] = patch_entropy(patches)
        if self._history is not None:
            self._history.update(moments)
        batch_labels = None
        if self._labels is not None:
            batch_labels = labels
            metrics["recognised"] = (logits.argmax(-1) == labels).float().mean()
        batch = image_batch(optimised.images, labels=batch_labels, metrics=metrics)
        path = {**optimised.path, optimised.iterations: optimised.images[:num_images]}
        return batch, OptimisationPath(images=tuple(path.values()), iterations=tuple(path))

    def state_dict(self) -> dict[str, Any]:
        return {} if self._history is None else self._history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._history is not None:
            self._history.load_state_dict(state)
        elif state:
            raise ValueError(f"an inverting stream has no state, got {sorted(state)}")

    @contextmanager
    def _recorders(self) -> Iterator[_Recorders]:
        with (
            MomentsRecorder(self._teacher, self._known) as moments,
            PatchRecorder(self._teacher, self._attention) as patches,
        ):
            yield moments, patches

    def _optimise(
        self,
        step: int,
        student: nn.Module | None,
        labels: Tensor,
        recorders: _Recorders,
        keep: Keep,
    ) -> Optimised:
        context = self._context
        rng = child(self._rng, "noise", context.split, context.rank, step, device=context.device)
        loss_function = self._losses(labels, student)

        def loss(images: Tensor, normalised: Tensor) -> Tensor:
            logits, moments, patches = self._evaluate(images, recorders)
            if self._history is not None:
                moments = self._history.join(moments)
            return loss_function(LossInputs(normalised, images, logits, moments, patches))

        return self._optimisation(loss, context.batch_size, context.contract, rng, keep)

    def _evaluate(
        self, images: Tensor, recorders: _Recorders
    ) -> tuple[Tensor, Mapping[str, Moments], tuple[Tensor, ...]]:
        """Return the teacher's logits, the moments of its layers' inputs, and its patches."""
        contract = self._context.contract
        try:
            logits = self._teacher(images)
        except RuntimeError as error:
            if tuple(images.shape[2:]) == contract.size:
                raise
            raise ValueError(
                f"the teacher accepts no images of size {tuple(images.shape[2:])} instead of "
                f"{contract.size} ({first_line(error)}); set coarse_iterations to 0"
            ) from error
        classes = contract.classes
        if not isinstance(logits, Tensor) or logits.shape != (len(images), classes):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"inversion needs {classes} logits per image, but the teacher's output for "
                f"{len(images)} images is {shape}; only classifiers can be inverted"
            )
        moments, patches = recorders
        return logits.float(), moments.read() if self._known else {}, patches.read()

    def _choose(self, step: int) -> Int64[Tensor, " batch"]:
        context, classes = self._context, self._context.contract.classes
        rng = child(self._rng, "labels", context.split)
        if self._labels == "random":
            own = child(rng, context.rank, step)
            return torch.randint(classes, (context.batch_size,), generator=own)
        start = (step * context.world + context.rank) * context.batch_size
        return labels_in_turn(start, context.batch_size, classes, rng)
