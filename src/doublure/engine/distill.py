"""Distillation: teacher + transfer set + objective -> student.

`TeacherStream` adds the teacher's outputs to each batch of a source; `fit` trains. With a ring,
views and outputs are reused in new combinations (see `answer_ring`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from doublure.core.protocols import (
    AnyContract,
    Batch,
    InputContract,
    Loss,
    ResizingSource,
    Rule,
    Source,
    Stream,
    StreamContext,
    Transform,
    parts_of,
)
from doublure.core.seeding import child
from doublure.engine.answer_ring import Ring, RingPlan, RingStream, plan_ring
from doublure.engine.fit import Checkpointer, FitResult, FitSettings, MetricsLogger, fit
from doublure.nets.features import FeatureRecorder, device_of
from doublure.nets.memory_format import to_channels_last_
from doublure.nets.network import freeze
from doublure.nets.precision import Precision
from doublure.objectives.weighted import AnyObjective, open_loss

# Number of images per batch for a transform.
_SHOWN_AT_ONCE = 64


class TeacherStream:
    """A stream of batches with the teacher's outputs, computed once per batch without gradients.

    Args:
        teacher: frozen; see `nets.network.freeze`.
        features: layers of the teacher whose features the loss needs.
        final: the last step, whose batch a checkpoint keeps.

    `last` is the last batch, for inspection after a run, also one that is resumed after its last
    step; `notes` are messages for its start.
    """

    def __init__(
        self,
        stream: Stream,
        teacher: nn.Module,
        features: Sequence[str] = (),
        precision: Precision = "float32",
        final: int | None = None,
    ) -> None:
        self.stream, self.final = stream, final
        self.recorder = FeatureRecorder(teacher, features, precision)
        self.last: Batch | None = None
        self.notes: tuple[str, ...] = ()
        self._step = -1

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        self.last = self._answer(self.stream.draw(step, student))
        self._step = step
        return self.last

    def reuse(self, plan: RingPlan, context: StreamContext, rng: torch.Generator) -> None:
        """Use a ring with this plan; if it is off, only add a note."""
        self.notes = (plan.note,)
        if plan.batches:
            self.stream = RingStream(self.stream, self.recorder.record, plan, context, rng)

    def stated(self) -> dict[str, int]:
        """Return the content of the ring: batches, views, bytes; {} without one."""
        return self.stream.stated() if isinstance(self.stream, RingStream) else {}

    def state_dict(self) -> dict[str, Any]:
        last = None if self.last is None or self._step != self.final else dict(self.last.views)
        return {"stream": self.stream.state_dict(), "last": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state["stream"])
        if state["last"] is not None:  # nothing will be drawn again, but looked at
            self.last = self._answer(Batch(views=state["last"]))

    def _answer(self, batch: Batch) -> Batch:
        if batch.teacher is not None:
            return batch
        with torch.no_grad():
            return dataclasses.replace(batch, teacher=self.recorder.record(batch.views["teacher"]))


@dataclass(frozen=True, kw_only=True)
class Training:
    """A stage that is ready to run: call it with checkpointer and metrics log."""

    stream: Stream
    begin: Callable[..., FitResult]

    def __call__(self, **told: Any) -> FitResult:
        return self.begin(**told)

    @property
    def last(self) -> Batch | None:
        """The last batch with teacher outputs; None before the first or without teacher."""
        return self.stream.last if isinstance(self.stream, TeacherStream) else None


def open_distillation(
    student: nn.Module,
    teacher: nn.Module,
    source: Source,
    objective: AnyObjective,
    *,
    settings: FitSettings,
    context: StreamContext,
    rng: torch.Generator,
    ring: Ring | None = None,
) -> tuple[TeacherStream, Loss]:
    """Return the arguments of `fit` besides the student: stream with teacher outputs, and loss.

    A ring that does not fit is off, with a line in `TeacherStream.notes`.

    The teacher does not change: a frozen view of it is used. Connectors get their shapes from an
    example of two items, from a separate stream. Errors of the source or the objective are raised
    here, before the first step.
    """
    frozen = freeze(teacher)
    if settings.channels_last:
        to_channels_last_(frozen)
    small = dataclasses.replace(context, batch_size=2, steps=1, scratch=None, draft=True)
    example = source.open(small, frozen, child(rng, "example")).draw(0, student)
    loss = open_loss(objective, student, frozen, example, child(rng, "objective"))
    _check_sizes(source, loss)
    asked = frozen, loss.features.teacher, settings.precision
    final = settings.steps - 1
    if ring is None:
        opened = source.open(context, frozen, child(rng, "source"))
        return TeacherStream(opened, *asked, final=final), loss
    with FeatureRecorder(*asked) as recorder:
        plan = plan_ring(ring, example, recorder.record, context.batch_size)
    drawn = dataclasses.replace(context, steps=plan.num_draws(context.steps))
    answered = TeacherStream(source.open(drawn, frozen, child(rng, "source")), *asked, final=final)
    answered.reuse(plan, context, child(rng, "ring"))
    return answered, loss


def _check_sizes(source: Source, loss: Loss) -> None:
    resizing = (part.resizes for part in parts_of(source) if isinstance(part, ResizingSource))
    if loss.features.student and any(resizing):
        raise ValueError(
            "the objective compares layers, but the student is also shown smaller images than the "
            "teacher, whose maps do not fit; take one on logits (--objective soft-targets, or "
            "--without stage-outputs), or leave --interleave out"
        )


def distill(
    student: nn.Module,
    teacher: nn.Module,
    source: Source,
    objective: AnyObjective,
    *,
    settings: FitSettings,
    context: StreamContext,
    rng: torch.Generator,
    rules: Sequence[Rule] = (),
    checkpointer: Checkpointer | None = None,
    logger: MetricsLogger | None = None,
    ring: Ring | None = None,
) -> FitResult:
    """Train `student` in place to match `teacher` on the batches of `source`.

    A source that computes teacher outputs itself (`Batch.teacher`) must include the requested
    features.
    """
    stream, loss = open_distillation(
        student, teacher, source, objective, settings=settings, context=context, rng=rng, ring=ring
    )
    return fit(
        student,
        stream,
        loss,
        settings=settings,
        rng=rng,
        rules=rules,
        checkpointer=checkpointer,
        logger=logger,
        world=context.world,
    )


def transform(
    student: nn.Module,
    teacher: nn.Module | None,
    apply: Transform,
    source: Source | None,
    *,
    contract: InputContract,
    num_images: int,
    rng: torch.Generator,
) -> nn.Module:
    """Return the transformed student; the transform gets images of `source` with teacher outputs.

    The result depends on seed and weights only: it is the same in every process and in a resumed
    run.
    """
    if source is None:
        return apply(student, None, rng)
    size = min(num_images, _SHOWN_AT_ONCE)
    context = StreamContext(
        contract=contract,
        device=device_of(student),
        batch_size=size,
        steps=-(-num_images // size),
    )
    asked = None if teacher is None else freeze(teacher)
    stream: Stream = source.open(context, asked, child(rng, "source"))
    if asked is not None:
        stream = TeacherStream(stream, asked)
    batches = [stream.draw(step, student) for step in range(context.steps)]
    return apply(student, batches, rng)


def stream_context(
    contract: AnyContract, network: nn.Module, settings: FitSettings, **fields: Any
) -> StreamContext[AnyContract]:
    """Return the context of a run: the device of `network`, batch size and steps of `settings`."""
    world = fields.get("world", 1)
    if settings.batch_size % world:
        raise ValueError(
            f"batch_size {settings.batch_size} does not divide over {world} processes; "
            f"use a multiple of {world}"
        )
    return StreamContext(
        contract=contract,
        device=device_of(network),
        batch_size=settings.batch_size // world,
        steps=max(settings.first_planned, 1),  # a source plans for at least one draw
        **fields,
    )
