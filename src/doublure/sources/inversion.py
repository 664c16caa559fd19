"""A stream whose every batch is optimised from noise, against what a teacher says of it.

What the losses of a search are made from is gathered here: the images as the networks see them,
the teacher's logits, and the moments of what enters its layers. So is what every such batch is
judged by once it is finished, clipped to [0, 1]: whether the teacher calls the images by their
labels, and how far their statistics are from those known.
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
from doublure.sources.image_optimisation import Found, ImageOptimisation, Images, Keep

Labels = Literal["balanced", "random"]
_Recorders = tuple[MomentsRecorder, PatchRecorder]
# Images at once when statistics are measured.
_MEASURED_AT_ONCE = 64


class Seen(NamedTuple):
    """What a loss is a function of.

    Args:
        normalised: the optimised images, in the network's normalised space.
        images: the same in the units of [0, 1], moved, as teacher and student see them.
        logits: the teacher's.
        moments: of what enters the layers whose statistics are known, joined with those of the
            batches before where the stream has a history.
        patches: what patches are worth in each attention layer, where that is asked for.
    """

    normalised: Images
    images: Images
    logits: Float[Tensor, "batch classes"]
    moments: Mapping[str, Moments]
    patches: tuple[Float[Tensor, "batch patches dim"], ...] = ()


# A loss for these labels, and against this student where there is one.
LossMaker = Callable[[Tensor, nn.Module | None], Callable[[Seen], Tensor]]


def check_labels(labels: str) -> None:
    """Raise unless there is such a way to choose labels."""
    one_of("labels", labels, get_args(Labels))


def labels_in_turn(
    start: int, count: int, classes: int, rng: torch.Generator
) -> Int64[Tensor, " batch"]:
    """Return the labels at these places of an endless row of permutations of the classes."""
    places = torch.arange(start, start + count)
    rounds = range(start // classes, (start + count - 1) // classes + 1)
    orders = {n: torch.randperm(classes, generator=child(rng, "round", n)) for n in rounds}
    return torch.stack([orders[int(p) // classes][p % classes] for p in places])


def required(teacher: nn.Module | None) -> nn.Module:
    """Return the teacher, or raise where there is none."""
    if teacher is None:
        raise ValueError("inversion needs a teacher to invert; give --teacher")
    return teacher


def known_statistics(
    teacher: nn.Module, context: StreamContext, images: str | None, *, needed: bool
) -> dict[str, Stored]:
    """Return the statistics that images shall have before layers of the teacher.

    Args:
        images: a set to measure them on, before each normalising layer; None takes those that
            BatchNorm layers have stored.
        needed: raise where there are none.
    """
    if images is not None:
        data = open_data(images, context.contract, split="train")
        fed = (
            part.to(context.device).float() / 255 for part, _ in batches(data, _MEASURED_AT_ONCE)
        )
        return measured_statistics(teacher, normalising_layers(teacher), fed)
    if batchnorm_layers(teacher):
        return stored_statistics(teacher)
    if needed and attention_layers(teacher):
        raise ValueError(
            "inversion needs BatchNorm statistics, but the teacher has no BatchNorm layer; it is a "
            "transformer: have the similarity of its patches in their place (deep-inversion with "
            "features=0 and patches=1, or inceptionism with patches=1), or name images to take "
            "statistics from (statistics=DATA)"
        )
    return stored_statistics(teacher) if needed else {}


class InvertedStream:
    """A stream whose every batch is optimised; a function of (seed, step, history, student).

    Args:
        labels: how they are chosen; None for images without.
        history: what the moments of a batch are joined with; None where it stands alone.
        attention: layers of the teacher in which patches are looked at.
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
        """Return the batch of this step, and its first images after these shares of the search.

        A search that stopped before a share of it was done has nothing to show there.
        """
        labels = self._choose(step).to(self._context.device)
        planned = self._optimisation.iterations + self._optimisation.coarse_iterations
        keep = Keep(at={round(share * planned) for share in shares}, images=num_images)
        with self._recorders() as recorders:
            found = self._find(step, student, labels, recorders, keep)
            with torch.no_grad():
                logits, moments, patches = self._ask(found.images, recorders)
        metrics = {"image_passes": torch.tensor(found.image_passes), "inversion_loss": found.loss}
        if self._known:
            metrics["feature_distance"] = feature_statistics_loss(moments, self._known, 1.0)
        if patches:
            metrics["patch_entropy"] = patch_entropy(patches)
        if self._history is not None:
            self._history.update(moments)
        known = None
        if self._labels is not None:
            known = labels
            metrics["recognised"] = (logits.argmax(-1) == labels).float().mean()
        batch = image_batch(found.images, labels=known, metrics=metrics)
        path = {**found.path, found.iterations: found.images[:num_images]}
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

    def _find(
        self,
        step: int,
        student: nn.Module | None,
        labels: Tensor,
        recorders: _Recorders,
        keep: Keep,
    ) -> Found:
        context = self._context
        rng = child(self._rng, "noise", context.split, context.rank, step, device=context.device)
        measure = self._losses(labels, student)

        def loss(images: Tensor, normalised: Tensor) -> Tensor:
            logits, moments, patches = self._ask(images, recorders)
            if self._history is not None:
                moments = self._history.joined(moments)
            return measure(Seen(normalised, images, logits, moments, patches))

        return self._optimisation(loss, context.batch_size, context.contract, rng, keep)

    def _ask(
        self, images: Tensor, recorders: _Recorders
    ) -> tuple[Tensor, Mapping[str, Moments], tuple[Tensor, ...]]:
        """Return the teacher's logits, the moments of what entered its layers, and its patches."""
        contract = self._context.contract
        try:
            logits = self._teacher(images)
        except RuntimeError as error:
            if tuple(images.shape[2:]) == contract.size:
                raise
            raise ValueError(
                f"the teacher does not take images of {tuple(images.shape[2:])} in place of "
                f"{contract.size} ({first_line(error)}); set coarse_iterations to 0"
            ) from error
        classes = contract.classes
        if not isinstance(logits, Tensor) or logits.shape != (len(images), classes):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"inversion needs {classes} logits per image, but the teacher answers "
                f"{len(images)} images with {shape}; only classifiers can be inverted"
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
