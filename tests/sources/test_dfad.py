import copy

import pytest
import torch
from torch import nn

from doublure.core.protocols import OptimisedSource, Source, Stream
from doublure.engine.distill import distill
from doublure.nets.generators import GeneratorPlan
from doublure.nets.network import freeze
from doublure.objectives.logit_l1 import LogitL1, logit_l1_loss
from doublure.sources.collapse import CollapseCheck, CollapseError
from doublure.sources.dfad import DFAD, PUBLISHED, DFADStream, generator_loss
from tests import tiny
from tests.tiny import context, rng

EXAMPLES = (DFAD(generator=tiny.GENERATOR, imitation_steps=2, collapse=CollapseCheck(every=0)),)

STUDENT = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]])
TEACHER = torch.tensor([[3.0, 1.0, 0.5], [2.0, 0.0, -1.0]])
SMALL = GeneratorPlan(latent=8, width=8)
NEVER = CollapseCheck(every=0)


def settings(**changes) -> DFAD:
    return DFAD(**({"generator": SMALL, "collapse": NEVER} | changes))


def opened(dfad: DFAD, teacher: nn.Module | None = None, **changes) -> DFADStream:
    where = context(**({"batch_size": 16, "steps": 1000} | changes))
    return dfad.open(where, freeze(teacher or tiny.network(0)), rng())


def weights(stream: DFADStream) -> dict[str, torch.Tensor]:
    return stream.state_dict()["generator"]


def moved(before, after) -> bool:
    return any(not torch.equal(before[name], after[name]) for name in before if "weight" in name)


def test_both_losses_by_hand():
    assert generator_loss(STUDENT, TEACHER, logarithm=False).item() == pytest.approx(-1.8333333)
    assert generator_loss(STUDENT, TEACHER, logarithm=True).item() == pytest.approx(-1.0414539)


def test_the_logarithm_scales_the_gradient_by_one_over_one_more_than_the_discrepancy():
    student = STUDENT.clone().requires_grad_()
    plain, log = (
        torch.autograd.grad(generator_loss(student, TEACHER, logarithm=how), student)[0]
        for how in (False, True)
    )
    torch.testing.assert_close(log, plain / (1 + 5.5 / 3), atol=1e-6, rtol=0)


def test_against_a_student_that_equals_its_teacher_the_generator_stands_still():
    teacher = tiny.network(0).eval()
    stream = opened(settings(imitation_steps=1), teacher)
    before = weights(stream)
    batch = stream.draw(1, teacher)
    assert batch.metrics["discrepancy"] == 0
    assert not moved(before, weights(stream))


def test_the_generator_moves_after_every_so_many_draws_and_never_at_the_first():
    stream, student = opened(settings(imitation_steps=3)), tiny.network(1)
    moves, passes = [], []
    for step in range(8):
        before = weights(stream)
        batch = stream.draw(step, student)
        moves.append(moved(before, weights(stream)))
        passes.append(batch.metrics["teacher_passes"].item())
    assert moves == [False, False, False, True, False, False, True, False]
    assert passes == [0, 0, 0, 2, 0, 0, 2, 0]


def test_a_turn_of_two_steps_costs_twice():
    batch = opened(settings(imitation_steps=1, generator_steps=2)).draw(1, tiny.network(1))
    assert batch.metrics["teacher_passes"] == 4


def test_no_image_is_shown_twice_and_none_carries_a_gradient():
    stream, student = opened(settings()), tiny.network(1)
    one, other = (stream.draw(step, student).images for step in (0, 1))
    assert not one.requires_grad
    assert not torch.equal(one, other)


def test_with_the_student_held_the_discrepancy_rises():
    stream, student = opened(settings(imitation_steps=1, learning_rate=1e-2)), tiny.network(1)
    told = [stream.draw(step, student).metrics["discrepancy"].item() for step in range(51)]
    assert sum(told[41:]) / 10 > 1.3 * sum(told[1:11]) / 10


def test_with_the_generator_held_the_discrepancy_falls():
    held = settings(imitation_steps=10_000)
    fit = tiny.settings(steps=50, batch_size=32, learning_rate=0.05, log_every=10)
    lines: list[float] = []
    distill(
        tiny.network(1),
        tiny.network(0),
        held,
        LogitL1(),
        settings=fit,
        context=context(fit),
        rng=rng(),
        logger=lambda line: lines.append(line["loss"]),
    )
    assert lines[-1] < 0.6 * lines[0]


def test_the_game_finds_more_to_teach_than_a_generator_that_stands_still():
    student, teacher = tiny.network(1).eval(), freeze(tiny.network(0))
    shown = []
    for steps in (1, 10_000):
        stream = opened(settings(imitation_steps=steps, learning_rate=1e-2), teacher)
        for step in range(30):
            images = stream.draw(step, student).images
        shown.append(logit_l1_loss(student(images), teacher(images)).mean().item())
    assert shown[0] > 1.3 * shown[1]


def test_teacher_and_student_come_back_as_they_were_even_in_training_mode():
    teacher, student = freeze(tiny.network(0)), tiny.network(1).train()
    student(torch.rand(4, 1, 8, 8, generator=rng())).sum().backward()
    before = copy.deepcopy([student.state_dict(), [p.grad for p in student.parameters()]])
    taught = copy.deepcopy(teacher.state_dict())
    stream = opened(settings(imitation_steps=1), teacher)
    for step in range(3):
        stream.draw(step, student)
    after = [student.state_dict(), [p.grad for p in student.parameters()]]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    torch.testing.assert_close(teacher.state_dict(), taught, rtol=0, atol=0)
    assert student.training
    assert all(p.grad is None for p in teacher.parameters())


def test_asking_the_student_in_eval_mode_is_another_game():
    student = tiny.network(1).train()
    one, other = (
        opened(settings(imitation_steps=1, student_evaluates=how)) for how in (False, True)
    )
    metrics = [stream.draw(1, student).metrics["discrepancy"] for stream in (one, other)]
    assert metrics[0] != metrics[1]
    assert student.training


class Pixelwise(nn.Module):
    """Answers every pixel with three logits."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, -1.0, factor]).view(1, 3, 1, 1))

    def forward(self, images):
        return images * self.scale


def test_dense_outputs_take_the_logarithm_unless_told_otherwise():
    updates = []
    for loss in ("auto", "log", "linear"):
        stream = opened(settings(imitation_steps=1, loss=loss), Pixelwise(40.0))
        batch = stream.draw(1, Pixelwise(0.0))
        updates.append(stream.state_dict()["optimizer"]["state"][0]["exp_avg"])
    discrepancy = batch.metrics["discrepancy"]
    assert discrepancy > 1
    assert torch.equal(updates[0], updates[1])
    torch.testing.assert_close(updates[1], updates[2] / (1 + discrepancy), rtol=1e-3, atol=1e-7)


def test_the_learning_rate_falls_at_the_milestones():
    rates = [DFAD().learning_rate_at(progress) for progress in (0.0, 0.19, 0.2, 0.39, 0.4, 1.0)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    assert PUBLISHED["mnist"].learning_rate_at(0.9) == 1e-3
    assert PUBLISHED["nyuv2"].learning_rate_at(0.9) == pytest.approx(9e-5)


def stick(stream: DFADStream) -> None:
    """Make the generator say the same whatever its code."""
    state = stream.state_dict()
    for name, value in state["generator"].items():
        if name.startswith("first.weight"):
            value.zero_()
    stream.load_state_dict(state)


def test_a_stuck_generator_is_noticed_started_afresh_once_and_then_refused():
    check = CollapseCheck(every=2, count=16, patience=1)
    stream = opened(settings(collapse=check, imitation_steps=10_000))
    stick(stream)
    stuck = weights(stream)
    with pytest.warns(RuntimeWarning, match="100% of its new images are duplicates"):
        batch = stream.draw(2, tiny.network(1))
    assert batch.metrics["generator_restarts"] == 1
    assert moved(stuck, weights(stream))
    stick(stream)
    again = opened(settings(collapse=check, imitation_steps=10_000))
    again.load_state_dict(stream.state_dict())
    with pytest.raises(CollapseError, match="also after it was re-initialised"):
        again.draw(4, tiny.network(1))


def test_a_fresh_start_has_other_weights_than_the_first():
    check = CollapseCheck(every=2, count=16, patience=1)
    stream = opened(settings(collapse=check, imitation_steps=10_000))
    first = weights(stream)
    stick(stream)
    with pytest.warns(RuntimeWarning):
        stream.draw(2, None)
    assert moved(first, weights(stream))


def test_without_a_teacher_or_a_student_it_says_what_to_do():
    with pytest.raises(ValueError, match="there is none; use a source without a teacher"):
        DFAD().open(context(), None, rng())
    stream = opened(settings(imitation_steps=1))
    assert stream.draw(0, None).images.shape == (16, 1, 8, 8)
    with pytest.raises(ValueError, match="there is none; use distill --method dfad"):
        stream.draw(1, None)


def test_it_is_a_source_whose_images_cannot_be_held_out():
    assert isinstance(DFAD(), Source)
    assert isinstance(DFAD(), OptimisedSource)
    assert isinstance(opened(settings()), Stream)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="imitation_steps must be positive, got 0"):
        DFAD(imitation_steps=0)


def test_the_published_settings_are_those_of_the_paper():
    assert PUBLISHED["cifar"] == DFAD()
    assert (DFAD().imitation_steps, DFAD().generator.latent) == (5, 256)
    assert PUBLISHED["caltech101"].generator.shape == "deconvolution"
