"""Opening a stage of a recipe: stream, loss and initialisation of the student."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from doublure.core.checks import kind_name
from doublure.core.initialisation import Initialized
from doublure.core.protocols import Batch, Stream
from doublure.core.seeding import child, child_seed, from_seed
from doublure.core.training_notes import RemarksOnTraining
from doublure.engine.distill import TeacherStream, open_distillation, stream_context
from doublure.engine.fit import Checkpointer, FitResult, FitSettings, fit
from doublure.engine.recipe import Recipe, Stage
from doublure.nets.network import Network, freeze
from doublure.objectives.weighted import notes_of, open_loss


def stage_rng(recipe: Recipe, stage: int) -> torch.Generator:
    """Return the random generator of a stage."""
    return from_seed(child_seed(recipe.seed, "stage", stage))


@dataclass(kw_only=True)
class Training:
    """A stage that is ready to run: call it with checkpointer and metrics log.

    Args:
        stream: the stream for `fit`.
        begin: trains from the current weights of the student.
        draw: returns batches for the initialisation, of about this many images.
        initialize: initialises the student's weights in place from those batches; None keeps the
            weights.
        num_images: number of images for the initialisation.
        note: callback for the result of the initialisation.
    """

    stream: Stream
    begin: Callable[..., FitResult]
    draw: Callable[[int], Sequence[Batch]]
    initialize: Callable[[Sequence[Batch]], Initialized] | None
    num_images: int = 0
    note: Callable[[Initialized], None] = lambda _: None

    def __call__(self, *, checkpointer: Checkpointer | None = None, **told: Any) -> FitResult:
        """Train; without a checkpoint, initialise the weights first."""
        if self.initialize is not None and (checkpointer is None or checkpointer.load() is None):
            self.note(self.initialize(self.draw(self.num_images)))
        return self.begin(checkpointer=checkpointer, **told)

    @property
    def last(self) -> Batch | None:
        """The last batch with teacher outputs; None before the first or without teacher."""
        return self.stream.last if isinstance(self.stream, TeacherStream) else None


def open_stage(
    stage: Stage,
    teacher: Network[Any] | None,
    student: Network[Any],
    rng: torch.Generator,
    *,
    settings: FitSettings | None = None,
    say: Callable[[str], None] = lambda _: None,
    **where: Any,
) -> Training:
    """Return the training of `student` by one stage, to be called with checkpointer and log.

    Args:
        settings: settings in place of the stage's own, for a part of a run.
        say: callback for the notes of the objective, such as the layers it compares.
        where: fields of the `StreamContext` from the caller: rank, world, scratch.
    """
    context = stream_context(student.contract, student, stage.fit, **where)
    settings = settings or stage.fit
    stream: Stream
    if teacher is not None:
        stream, loss = open_distillation(
            student,
            teacher,
            stage.source,
            stage.objective,
            settings=settings,
            context=context,
            rng=rng,
            ring=stage.ring,
        )
        for note in stream.notes:
            say(note)
    else:
        stream = stage.source.open(context, None, child(rng, "source"))
        example = stage.source.open(context, None, child(rng, "example")).draw(0, student)
        loss = open_loss(stage.objective, student, None, example, child(rng, "objective"))
    for note in (*notes_of(loss), *_remarks(stage, student, settings)):
        say(note)
    begin = functools.partial(
        fit,
        student,
        stream,
        loss,
        settings=settings,
        rng=rng,
        rules=stage.rules,
        world=context.world,
    )

    def draw(num_images: int) -> Sequence[Batch]:
        shown = stream.stream if isinstance(stream, TeacherStream) else stream
        if stage.init_source is not None:
            asked = None if teacher is None else freeze(teacher)
            shown = stage.init_source.open(context, asked, child(rng, "init", "source"))
        return [shown.draw(step, None) for step in range(-(-num_images // context.batch_size))]

    def initialize(batches: Sequence[Batch]) -> Initialized:
        assert stage.init is not None
        assert teacher is not None
        return stage.init(student, teacher, batches, child(rng, "init"))

    begins = stage.init is not None and teacher is not None
    return Training(
        stream=stream,
        begin=begin,
        draw=draw,
        initialize=initialize if begins else None,
        num_images=0 if stage.init is None else stage.init.num_images,
    )


def _remarks(stage: Stage, student: nn.Module, settings: FitSettings) -> Iterator[str]:
    """Yield what the parts of a stage say of the training they are part of."""
    parts: list[object] = [*stage.rules]
    if stage.model_transform is not None:
        parts.append(stage.model_transform.transform)
    for part in parts:
        if isinstance(part, RemarksOnTraining):
            optimizer = kind_name(type(settings.optimizer))
            yield from part.remarks(student, steps=settings.steps, optimizer=optimizer)
