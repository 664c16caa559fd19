"""The spine: teacher + transfer set + objective -> student.

`Answered` puts the teacher's answer into each batch of a source; `fit` does the rest. With a ring,
answers are shown again in new combinations (see `answer_ring`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from doublure.core.protocols import (
    Batch,
    Contract,
    Criterion,
    InputContract,
    Rule,
    Site,
    Source,
    Stream,
    Transform,
)
from doublure.core.seeding import child
from doublure.engine.answer_ring import Ring, RingPlan, RingStream, plan_ring
from doublure.engine.fit import FitSettings, Journal, Keeper, Outcome, fit
from doublure.nets.memory_order import lay_channels_last
from doublure.nets.network import freeze
from doublure.nets.precision import Precision
from doublure.nets.taps import Taps, device_of
from doublure.objectives.weighted import AnyObjective, open_criterion

# Images of one batch that a transform is shown.
_SHOWN_AT_ONCE = 64


class Answered:
    """A stream whose batches carry the teacher's answer, asked once a batch and without gradient.

    Args:
        teacher: frozen; see `nets.network.freeze`.
        taps: layers of the teacher that the criterion wants to see.

    `last` is the batch that was drawn last, to be looked at after a run; `notes` are worth saying
    before it.
    """

    def __init__(
        self,
        stream: Stream,
        teacher: nn.Module,
        taps: Sequence[str] = (),
        precision: Precision = "float32",
    ) -> None:
        self.stream = stream
        self.taps = Taps(teacher, taps, precision)
        self.last: Batch | None = None
        self.notes: tuple[str, ...] = ()

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        self.last = self._answer(self.stream.draw(step, student))
        return self.last

    def reuse(self, plan: RingPlan, site: Site, rng: torch.Generator) -> None:
        """Show answers again, as planned; with a plan that holds nothing, only say so."""
        self.notes = (plan.note,)
        if plan.batches:
            self.stream = RingStream(self.stream, self.taps.trace, plan, site, rng)

    def stated(self) -> dict[str, int]:
        """Return what a ring holds: batches, views, bytes; {} without one."""
        return self.stream.stated() if isinstance(self.stream, RingStream) else {}

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)

    def _answer(self, batch: Batch) -> Batch:
        if batch.teacher is not None:
            return batch
        with torch.no_grad():
            return dataclasses.replace(batch, teacher=self.taps.trace(batch.views["teacher"]))


@dataclass(frozen=True, kw_only=True)
class Training:
    """A stage that is ready to be carried out: call it with keeper and journal."""

    stream: Stream
    begin: Callable[..., Outcome]

    def __call__(self, **told: Any) -> Outcome:
        return self.begin(**told)

    @property
    def last(self) -> Batch | None:
        """What was drawn last, with the teacher's answer; None where nothing was, or no teacher."""
        return self.stream.last if isinstance(self.stream, Answered) else None


def open_distillation(
    student: nn.Module,
    teacher: nn.Module,
    source: Source,
    objective: AnyObjective,
    *,
    settings: FitSettings,
    site: Site,
    rng: torch.Generator,
    ring: Ring | None = None,
) -> tuple[Answered, Criterion]:
    """Return what `fit` needs beside the student: the stream, with answers, and the criterion.

    A ring for which there is no room is left out, and `Answered.notes` say so.

    The teacher stays as it is: a frozen view of it answers. Connectors take their shapes from an
    example of two items, drawn from a stream of its own. Whatever is wrong with the source or the
    objective shows here, before the first step.
    """
    frozen = freeze(teacher)
    if settings.channels_last:
        lay_channels_last(frozen)
    small = dataclasses.replace(site, batch_size=2, steps=1, scratch=None, draft=True)
    example = source.open(small, frozen, child(rng, "example")).draw(0, student)
    criterion = open_criterion(objective, student, frozen, example, child(rng, "objective"))
    asked = frozen, criterion.taps.teacher, settings.precision
    if ring is None:
        return Answered(source.open(site, frozen, child(rng, "source")), *asked), criterion
    with Taps(*asked) as taps:
        plan = plan_ring(ring, example, taps.trace, site.batch_size)
    drawn = dataclasses.replace(site, steps=plan.num_draws(site.steps))
    answered = Answered(source.open(drawn, frozen, child(rng, "source")), *asked)
    answered.reuse(plan, site, child(rng, "ring"))
    return answered, criterion


def distill(
    student: nn.Module,
    teacher: nn.Module,
    source: Source,
    objective: AnyObjective,
    *,
    settings: FitSettings,
    site: Site,
    rng: torch.Generator,
    rules: Sequence[Rule] = (),
    keeper: Keeper | None = None,
    journal: Journal | None = None,
    ring: Ring | None = None,
) -> Outcome:
    """Train `student` in place to match `teacher` on what `source` shows.

    A source that asks the teacher itself (`Batch.teacher`) must bring the taps it is asked for.
    """
    stream, criterion = open_distillation(
        student, teacher, source, objective, settings=settings, site=site, rng=rng, ring=ring
    )
    return fit(
        student,
        stream,
        criterion,
        settings=settings,
        rng=rng,
        rules=rules,
        keeper=keeper,
        journal=journal,
        world=site.world,
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
    """Return what a transform makes of the student, shown images of `source` with answers.

    It is a function of seed and weights alone: every process, and a run that goes on, makes the
    same again.
    """
    if source is None:
        return apply(student, None, rng)
    size = min(num_images, _SHOWN_AT_ONCE)
    site = Site(
        contract=contract,
        device=device_of(student),
        batch_size=size,
        steps=-(-num_images // size),
    )
    asked = None if teacher is None else freeze(teacher)
    stream: Stream = source.open(site, asked, child(rng, "source"))
    if asked is not None:
        stream = Answered(stream, asked)
    batches = [stream.draw(step, student) for step in range(site.steps)]
    return apply(student, batches, rng)


def site_of(
    contract: Contract, network: nn.Module, settings: FitSettings, **fields: Any
) -> Site[Contract]:
    """Return the site of a run: where `network` lives, at the batch and length of `settings`."""
    world = fields.get("world", 1)
    if settings.batch_size % world:
        raise ValueError(
            f"batch_size {settings.batch_size} does not divide over {world} processes; "
            f"use a multiple of {world}"
        )
    return Site(
        contract=contract,
        device=device_of(network),
        batch_size=settings.batch_size // world,
        steps=max(settings.steps, 1),  # a source plans for one draw at least
        **fields,
    )
