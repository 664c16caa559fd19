"""Outputs of teacher and student on held-out transfer images.

They are held out from the source of a stage. If that includes a few real images, only their
evaluation part is used, without augmentation: these are closest to the student's purpose. Optimised
images cannot be held out, and images on disk are not if `held_out` is 0: then a fixed set of shader
images is used, with the contract's mean and standard deviation.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from doublure.core.checks import kind_name
from doublure.core.protocols import (
    Batch,
    CombiningSource,
    OptimisedSource,
    Source,
    WrappingSource,
    parts_of,
)
from doublure.core.seeding import child_seed, from_seed
from doublure.engine.distill import stream_context
from doublure.engine.recipe import Stage
from doublure.nets.network import Network, freeze
from doublure.sources.few import Few
from doublure.sources.matched import Matched
from doublure.sources.shaders import Shaders
from doublure.sources.surrogate import Surrogate

# At 2 048 images the standard error of a share is at most 1.1 points.
COUNT = 2048
_SAMPLES = 48
# Seed of the fixed shader set, the same for all runs.
_FIXED_SEED = 0


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Outputs of teacher and student on transfer images, usually held out, with augmentation.

    Args:
        images: some of them, for the report.
        distinct: number of different images behind these views; None if unknown.
    """

    images: Tensor
    teacher: Tensor
    student: Tensor
    on: str
    distinct: int | None = None


def answer_held_out(
    stage: Stage, seed: int, teacher: Network, student: Network, count: int = COUNT
) -> HeldOut:
    """Return both networks' outputs on images that the student was not trained on."""
    source, seed = _judging(stage.source, seed)
    if isinstance(source, Few):  # each image once
        count = size = len(source.held_out_images(student.contract))
    else:
        size = min(256, count)
    settings = dataclasses.replace(stage.fit, batch_size=size)
    steps = -(-count // settings.batch_size)
    context = stream_context(student.contract, student, settings, split="held_out")
    rng = from_seed(child_seed(seed, "held_out"))
    asked = freeze(teacher)
    stream = source.open(dataclasses.replace(context, steps=steps), asked, rng)
    images, answers, seen = [], [], []
    for step in range(steps):
        batch = stream.draw(step, student)
        with torch.no_grad():
            answers.append((asked(batch.views["teacher"]), student.eval()(batch.views["student"])))
        images.append(batch.images[: _SAMPLES if step == 0 else 0])
        seen += [] if batch.index is None else [batch.index]
    distinct = len(set(torch.cat(seen).tolist())) if len(seen) == steps else None
    teachers, students = zip(*answers, strict=True)
    return HeldOut(
        images=torch.cat(images),
        teacher=torch.cat(teachers),
        student=torch.cat(students),
        on=_held_out_name(stage),
        distinct=distinct,
    )


def answer_shown(batch: Batch | None, student: Network) -> HeldOut | None:
    """Return both networks' outputs on training images; None if there are none."""
    if batch is None or batch.teacher is None or not isinstance(batch.teacher.output, Tensor):
        return None
    with torch.no_grad():
        answer = student.eval()(batch.images)
    return HeldOut(
        images=batch.images[:_SAMPLES],
        teacher=batch.teacher.output,
        student=answer,
        on="the last batch that was trained on",
    )


def _judging(source: Source, seed: int) -> tuple[Source, int]:
    """Return the source of the held-out images, and its seed."""
    if (few := _few(source)) is not None:
        return few, seed
    if _why_nothing_is_held_out(source):
        return Matched(source=Shaders()), _FIXED_SEED
    return source, seed


def _few(source: Source) -> Few | None:
    """Return the few real images in a source that have an evaluation part, if there are any."""
    parts = (part for part in parts_of(source) if isinstance(part, Few) and part.held_out)
    return next(parts, None)


def _why_nothing_is_held_out(source: Source) -> str | None:
    """Return why a source has no held-out images, None if it has some."""
    parts = [*parts_of(source)]
    if any(isinstance(part, OptimisedSource) for part in parts):
        return "none of what was shown could be held out"
    if any(isinstance(part, Surrogate | Few) and part.held_out == 0 for part in parts):
        return "nothing of the transfer set was held out"
    return None


def _held_out_name(stage: Stage) -> str:
    if _few(stage.source) is not None:
        return "real images, those of the few that judge"
    if reason := _why_nothing_is_held_out(stage.source):
        return f"shader images of a fixed set; {reason}"
    sources = _shown(stage.source)
    if all(isinstance(source, Surrogate) for source in sources):
        return "images of the transfer set kept apart by their hash, as fed"
    names = [kind_name(type(source)) for source in sources]
    if len(names) == 1:
        return f"images of the source {names[0]}, from a disjoint range of seeds, as fed"
    return f"held-out images of the sources {' and '.join(names)}, side by side, as fed"


def _shown(source: Source) -> list[Source]:
    """Return the innermost sources."""
    holding = WrappingSource | CombiningSource
    return [part for part in parts_of(source) if not isinstance(part, holding)]
