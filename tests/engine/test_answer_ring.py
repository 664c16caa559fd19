import dataclasses
import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from doublure.core.protocols import Batch, StreamContext
from doublure.engine.answer_ring import Ring, RingPlan, RingStream, to_bytes, to_images
from doublure.engine.distill import TeacherStream, distill, open_distillation
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import freeze
from doublure.objectives.pairing import Layers
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.stage_outputs import StageOutputs
from doublure.objectives.weighted import Weighted
from tests import tiny

# A view of 8 x 8 grey pixels, 3 logits of 4 bytes, and of the stage after the pool 16 halves.
BYTES_PER_VIEW = 64 + 12 + 2 * 16
STAGES = Layers(student=("4",), teacher=("4",))
BOTH = Weighted(terms=((1.0, SoftTargets()), (1.0, StageOutputs(layers=STAGES))))


def opened(ring: Ring | None = None, source: Any = None, *, steps: int = 40, **context: Any):
    """Return a stream with answers and its teacher, which counts how often it is asked."""
    teacher, fit_settings = tiny.network(0).eval(), tiny.settings(steps=steps)
    answered, _ = open_distillation(
        tiny.network(1),
        teacher,
        source or tiny.Grey(labels=True),
        BOTH,
        settings=fit_settings,
        context=tiny.context(fit_settings, **context),
        rng=tiny.rng(),
        ring=ring,
    )
    return answered


def asked(answered: TeacherStream) -> list[int]:
    """Return a list that grows by one with each pass of the teacher."""
    passes: list[int] = []
    answered.recorder.network.register_forward_hook(lambda *_: passes.append(1))
    return passes


def fields(batch: Batch) -> dict[str, Any]:
    assert batch.teacher is not None
    return {
        "images": batch.images,
        "labels": batch.labels,
        "output": batch.teacher.output,
        "taps": dict(batch.teacher.features),
        "metrics": dict(batch.metrics),
    }


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def saved(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def test_without_a_ring_nothing_changes():
    plain, off = opened(), opened(Ring(views=1))
    for step in range(5):
        same(fields(off.draw(step, None)), fields(plain.draw(step, None)))
    assert plain.notes == ()
    assert plain.stated() == off.stated() == {}


def test_used_once_each_answer_is_the_plain_one_on_rounded_views():
    ring, plain = opened(Ring(reuse=1)), opened()
    for step in range(12):
        one, other = ring.draw(step, None), plain.draw(step, None)
        same(one.images, to_images(to_bytes(other.images)))
        same(one.labels, other.labels)
        same(one.metrics, other.metrics)
        torch.testing.assert_close(one.teacher.output, other.teacher.output, atol=0.01, rtol=0)


def test_bytes_are_kept_and_images_are_moved_by_half_a_step_at_most():
    values = torch.arange(256, dtype=torch.uint8)
    same(to_bytes(to_images(values)), values)
    images = torch.rand(1000, generator=tiny.rng())
    assert (to_images(to_bytes(images)) - images).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(("reuse", "passes"), [(1, 40), (2, 22), (3, 16), (5, 11)])
def test_the_teacher_is_asked_once_in_so_many_steps(reuse, passes):
    answered = opened(Ring(reuse=reuse))
    counted = asked(answered)
    for step in range(40):
        assert len(answered.draw(step, None).images) == 8
    assert len(counted) == passes  # 4 at the start, then each reuse-th
    plan = RingPlan(reuse=reuse, batch_size=8, batches=9, bytes_per_batch=1)
    assert plan.num_draws(40) == passes


def test_the_source_is_asked_for_all_its_draws_and_knows_how_many():
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Watched:
        def open(
            self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
        ) -> Any:
            class Stream(tiny.GreyStream):
                def draw(self, step: int, student: nn.Module | None) -> Batch:
                    seen.append((step, self.context.steps))
                    return super().draw(step, student)

            return Stream(context, rng, labels=False)

    answered = opened(Ring(reuse=3), Watched())
    seen.clear()
    for step in range(40):
        answered.draw(step, None)
    assert seen == [(draw, 16) for draw in range(16)]


def test_every_answer_is_the_teachers_own_on_that_very_view_and_label():
    answered = opened(Ring(reuse=3, views=40))
    shown = {}
    for step in range(40):
        batch = answered.draw(step, None)
        with FeatureRecorder(answered.recorder.network, ("4",)) as recorder, torch.no_grad():
            truth = recorder.record(batch.images)
        torch.testing.assert_close(batch.teacher.output, truth.output, atol=1e-5, rtol=1e-5)
        largest = truth.features["4"].abs().max().item()
        torch.testing.assert_close(
            batch.teacher.features["4"], truth.features["4"], atol=largest * 2**-11 + 1e-6, rtol=0
        )
        for image, label in zip(to_bytes(batch.images), batch.labels.tolist(), strict=True):
            assert shown.setdefault(image.numpy().tobytes(), label) == label
    assert len(shown) == 16 * 8


def test_a_view_is_shown_as_often_as_its_answer_is_reused():
    answered, shown = opened(Ring(reuse=4), steps=400), {}
    for step in range(400):
        for image in to_bytes(answered.draw(step, None).images):
            key = image.numpy().tobytes()
            shown[key] = shown.get(key, 0) + 1
    assert sum(shown.values()) / len(shown) == pytest.approx(4, rel=0.05)


def test_no_view_stands_twice_in_a_batch():
    answered = opened(Ring(reuse=3))
    for step in range(30):
        images = answered.draw(step, None).images
        assert len({image.numpy().tobytes() for image in images}) == 8


def test_features_too_large_for_half_precision_are_held_as_well():
    teacher = freeze(tiny.network(0))

    def large(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output * 1e9

    teacher[4].register_forward_hook(large)
    with FeatureRecorder(teacher, ("4",)) as recorder:
        plan = RingPlan(reuse=3, batch_size=8, batches=4, bytes_per_batch=1)
        inner = tiny.Grey().open(tiny.context(), None, tiny.rng())
        stream = RingStream(inner, recorder.record, plan, tiny.context(), tiny.rng())
        for step in range(5):
            batch = stream.draw(step, None)
        held = batch.teacher.features["4"]
        with torch.no_grad():
            truth = recorder.record(batch.images).features["4"]
    assert truth.max() > 65504
    torch.testing.assert_close(held, truth, rtol=2**-10, atol=truth.max().item() * 2**-24)


@pytest.mark.parametrize("at", [1, 3, 10, 11, 29])
def test_going_on_is_the_same_as_not_stopping(at):
    ring = Ring(reuse=3, views=48)
    whole = opened(ring)
    for step in range(at):
        whole.draw(step, None)
    state = whole.state_dict()
    kept, counted = saved(state), whole.stated()
    expected = [fields(whole.draw(step, None)) for step in range(at, at + 20)]
    same(saved(state), kept)  # what was handed out is not changed behind one's back
    again = opened(ring)
    again.load_state_dict(kept)
    assert again.stated() == counted
    for step, before in zip(range(at, at + 20), expected, strict=True):
        same(fields(again.draw(step, None)), before)
    same(saved(again.state_dict()), saved(whole.state_dict()))


def test_a_run_that_was_stopped_ends_with_the_same_student():
    def run(checkpointer: tiny.Memory) -> nn.Module:
        settings = tiny.settings(steps=20)
        return distill(
            tiny.network(1),
            tiny.network(0).eval(),
            tiny.Grey(),
            BOTH,
            settings=settings,
            context=tiny.context(settings),
            rng=tiny.rng(),
            checkpointer=checkpointer,
            ring=Ring(reuse=3, views=40),
        ).network

    whole = tiny.Memory(3, 10, 17)
    expected = run(whole)
    for state in whole.states:
        checkpointer = tiny.Memory()
        checkpointer.held = state
        assert tiny.same_weights(run(checkpointer), expected)


def test_a_checkpoint_holds_views_and_labels_and_no_answers():
    answered = opened(Ring(reuse=3))
    for step in range(6):
        answered.draw(step, None)
    state = answered.state_dict()["stream"]
    assert {name for held in state["held"] for name in held} == {"views", "labels"}
    assert {held["views"].dtype for held in state["held"]} == {torch.uint8}


def test_what_is_held_is_bounded_by_views_and_by_bytes():
    per_batch = 8 * (BYTES_PER_VIEW + 8)  # and an int64 label
    for ring, batches in (
        (Ring(views=48), 6),
        (Ring(views=55), 6),
        (Ring(bytes=5 * per_batch), 5),
        (Ring(bytes=6 * per_batch - 1), 5),
        (Ring(views=16), 2),
    ):
        answered = opened(ring)
        for step in range(40):
            answered.draw(step, None)
        told = answered.stated()
        assert told == {"batches": batches, "views": 8 * batches, "bytes": per_batch * batches}
        assert answered.notes[0].startswith(
            f"ring: the teacher answers one batch in 3; at most {batches} are held, 0.0 MiB a batch"
        )


def test_a_ring_with_no_room_for_two_batches_is_off_and_says_so():
    for ring in (Ring(views=15), Ring(bytes=1000)):
        answered = opened(ring)
        counted = asked(answered)
        for step in range(10):
            answered.draw(step, None)
        assert len(counted) == 10
        assert "ring: off, as two batches do not fit" in answered.notes[0]


def test_the_newest_facts_are_carried_and_rounds_are_said_in_steps():
    told = [{"pool": torch.tensor(0.1 * draw), "round": torch.tensor(16.0)} for draw in range(9)]

    class HasNotes(tiny.GreyStream):
        def draw(self, step: int, student: nn.Module | None) -> Batch:
            return dataclasses.replace(super().draw(step, student), metrics=told[step])

    plan = RingPlan(reuse=3, batch_size=8, batches=9, bytes_per_batch=1)
    with FeatureRecorder(freeze(tiny.network(0))) as recorder:
        inner = HasNotes(tiny.context(), tiny.rng(), labels=False)
        stream = RingStream(inner, recorder.record, plan, tiny.context(), tiny.rng())
        metrics = [stream.draw(step, None).metrics for step in range(8)]
    pools = [round(fact["pool"].item(), 1) for fact in metrics]
    assert pools == [0.0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.4, 0.4]
    assert {fact["round"].item() for fact in metrics} == {48.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"views": {"student": x, "teacher": x.clone()}}, "student and teacher see two"),
        (lambda x: {"views": {"student": {"a": x}, "teacher": {"a": x}}}, "shows other views"),
        (lambda x: {"views": {"student": x.long(), "teacher": x.long()}}, "shows other views"),
        (lambda x: {"mask": torch.ones(len(x))}, "no rule for masks"),
        (lambda x: {"size_factor": 2.0}, "they change theirs"),
    ],
)
def test_what_cannot_be_shown_again_row_by_row_is_refused_before_the_first_step(change, message):
    @dataclass(frozen=True, kw_only=True)
    class Odd:
        def open(
            self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
        ) -> Any:
            class Stream(tiny.GreyStream):
                def draw(self, step: int, student: nn.Module | None) -> Batch:
                    batch = super().draw(step, student)
                    return dataclasses.replace(batch, **change(batch.images))

            return Stream(context, rng, labels=False)

    student, teacher, settings = tiny.network(1), tiny.network(0), tiny.settings()
    with pytest.raises(ValueError, match=f"{message}.*; leave the ring away"):
        open_distillation(
            student,
            teacher,
            Odd(),
            SoftTargets(),
            settings=settings,
            context=tiny.context(settings),
            rng=tiny.rng(),
            ring=Ring(),
        )


@pytest.mark.parametrize("name", ["reuse", "views", "bytes"])
def test_a_ring_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        Ring(**{name: 0})


def test_each_process_puts_its_batches_together_for_itself():
    one, other = (opened(Ring(), rank=rank, world=2) for rank in (0, 1))
    for step in range(5):
        batches = [answered.draw(step, None).images for answered in (one, other)]
    assert not torch.equal(*batches)
