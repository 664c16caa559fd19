import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from doublure.core.protocols import Batch, InputContract, Stream
from doublure.core.seeding import from_seed
from doublure.engine.distill import TeacherStream, distill, open_distillation, stream_context
from doublure.engine.fit import fit
from doublure.engine.method import MethodInputs
from doublure.nets.builtin import build
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef
from doublure.objectives.soft_targets import SoftTargets, soft_target_loss
from doublure.recipe_file import replace_keys
from doublure.recipes import published
from tests import tiny


def run(teacher, student, **changes):
    settings = tiny.settings(**changes)
    return distill(
        student,
        teacher,
        tiny.Grey(),
        SoftTargets(temperature=4.0),
        settings=settings,
        context=tiny.context(settings),
        rng=tiny.rng(),
    )


def test_the_student_comes_closer_to_its_teacher():
    teacher, student = tiny.network(0).eval(), tiny.network(1)
    images = tiny.Grey().open(tiny.context(batch_size=64), None, tiny.rng(9)).draw(0, None).images
    before = soft_target_loss(student.eval()(images), teacher(images), 1.0).mean()
    result = run(teacher, student, steps=150, learning_rate=0.05)
    after = soft_target_loss(result.network(images), teacher(images), 1.0).mean()
    assert after < before / 5
    assert result.images == 150 * 8


def test_the_teacher_is_left_as_it_was():
    teacher = tiny.network(0).train()
    saved = {name: value.clone() for name, value in teacher.state_dict().items()}
    run(teacher, tiny.network(1))
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(saved[name], value) for name, value in teacher.state_dict().items())


def test_a_batch_that_brings_its_answer_is_not_asked_again():
    teacher = freeze(tiny.network(0))
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))

    class Knowing(tiny.GreyStream):
        def draw(self, step, student):
            batch = super().draw(step, student)
            return dataclasses.replace(
                batch, teacher=TeacherStream(self, teacher).recorder.record(batch.images)
            )

    stream = Knowing(tiny.context(), tiny.rng(), labels=False)
    answered = TeacherStream(stream, teacher)
    assert answered.draw(0, None).teacher is not None
    assert len(calls) == 1


class Watched:
    """A stream in which CUDA raises where Python waits for it, within some steps."""

    def __init__(self, stream: Stream, first: int, last: int) -> None:
        self.stream, self.first, self.last = stream, first, last

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        if step in (self.first, self.last):
            torch.cuda.set_sync_debug_mode("error" if step == self.first else "default")
        return self.stream.draw(step, student)

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_between_two_rounds_of_attacks_no_step_waits_for_the_device():
    contract = InputContract(size=(32, 32), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, classes=10)
    teacher, student = (Network(build("resnet8", classes=10), contract).cuda() for _ in "ts")
    given = MethodInputs(contract=contract, device="cuda")
    recipe = published("shader-kd", NetworkRef(ref="t"), NetworkRef(ref="s"), given)
    stage = replace_keys(recipe, {"pool_size": "64", "attack_fill": "false"}).stages[0]
    settings = dataclasses.replace(stage.fit, steps=32, batch_size=16, log_every=32)
    stream, loss = open_distillation(
        student,
        teacher,
        stage.source,
        stage.objective,
        settings=settings,
        context=stream_context(contract, student, settings),
        rng=from_seed(0),
    )
    # The pool is full, and attacks begin at steps 0 and 16.
    watched = Watched(stream, 17, 31)
    try:
        fit(student, watched, loss, settings=settings, rng=from_seed(0))
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Changing:
    """The student sees whole images in even steps and quarters of the pixels in odd ones."""

    def open(self, context, teacher, rng):
        return ChangingStream(context, rng, labels=False)


class ChangingStream(tiny.GreyStream):
    def draw(self, step: int, student: nn.Module | None) -> Batch:
        whole = super().draw(step, student).images
        small = torch.nn.functional.avg_pool2d(whole, 2) if step % 2 else whole
        return Batch(views={"student": small, "teacher": whole})


def test_images_may_change_their_size_from_step_to_step_and_the_teacher_sees_them_whole():
    seen = {"teacher": [], "student": []}
    teacher, student = tiny.network(0), tiny.network(1)
    for role, network in (("teacher", teacher), ("student", student)):
        network.register_forward_pre_hook(
            lambda _, inputs, role=role: seen[role].append(tuple(inputs[0].shape[-2:]))
        )
    settings = tiny.settings(steps=4)
    memory = tiny.Memory(2)
    known = {"settings": settings, "context": tiny.context(settings), "rng": tiny.rng()}
    parts = (Changing(), SoftTargets(temperature=4.0))
    whole = distill(student, teacher, *parts, **known, checkpointer=memory)
    assert seen["student"][-4:] == [(8, 8), (4, 4), (8, 8), (4, 4)]
    assert set(seen["teacher"]) == {(8, 8)}
    state, _ = memory.states  # behind step 2, and at the end
    resumed = tiny.Memory()
    resumed.held = state
    again = distill(tiny.network(1), teacher, *parts, **known, checkpointer=resumed)
    assert tiny.same_weights(again.network, whole.network)
