import dataclasses

import torch

from tests import tiny
from understudy.nets.network import freeze
from understudy.objectives.soft_targets import SoftTargets, soft_target_loss
from understudy.spine import Answered, distill


def run(teacher, student, **changes):
    settings = tiny.settings(**changes)
    return distill(
        student,
        teacher,
        tiny.Grey(),
        SoftTargets(temperature=4.0),
        settings=settings,
        site=tiny.site(settings),
        rng=tiny.rng(),
    )


def test_the_student_comes_closer_to_its_teacher():
    teacher, student = tiny.network(0).eval(), tiny.network(1)
    images = tiny.Grey().open(tiny.site(batch_size=64), None, tiny.rng(9)).draw(0, None).images
    before = soft_target_loss(student.eval()(images), teacher(images), 1.0).mean()
    outcome = run(teacher, student, steps=150, learning_rate=0.05)
    after = soft_target_loss(outcome.network(images), teacher(images), 1.0).mean()
    assert after < before / 5
    assert outcome.images == 150 * 8


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
                batch, teacher=Answered(self, teacher).taps.trace(batch.images)
            )

    stream = Knowing(tiny.site(), tiny.rng(), labels=False)
    answered = Answered(stream, teacher)
    assert answered.draw(0, None).teacher is not None
    assert len(calls) == 1
