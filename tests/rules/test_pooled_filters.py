"""A step at half size: what changes in it, and that nothing is left of it."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.core.protocols import InputContract, Source
from doublure.core.seeding import from_seed
from doublure.core.training_notes import RemarksOnTraining
from doublure.engine.distill import distill, stream_context
from doublure.engine.fit import FitResult, FitSettings, fit
from doublure.nets.builtin import build
from doublure.nets.network import Network
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import open_loss
from doublure.rules.pooled_filters import PooledFilters
from doublure.sources.interleaved import Interleaved
from tests import tiny

DEFAULTS = {"pooling": "split", "statistics": "separate"}
SETTINGS = FitSettings(steps=8, batch_size=4, learning_rate=0.05, log_every=8)
CONTRACT = InputContract(size=(16, 16), channels=1, mean=(0.5,), std=(0.5,), classes=3)


class Large(tiny.Grey):
    """Grey noise of 16 x 16 pixels."""

    def open(self, context: Any, teacher: Any, rng: torch.Generator) -> Any:
        return LargeStream(context, rng, labels=True)


class LargeStream(tiny.GreyStream):
    def draw(self, step: int, student: nn.Module | None) -> Any:
        batch = super().draw(step, student)
        return batch.map_views(lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def network(seed: int = 0, contract: InputContract = CONTRACT) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.Dropout(0.1),
            nn.Conv2d(4, 4, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )
    return Network(body, contract)


def trained(
    student: Network, source: Source, *rules: Any, settings: FitSettings = SETTINGS, **more: Any
) -> FitResult:
    context = stream_context(CONTRACT, student, settings)
    stream = source.open(context, None, from_seed(0))
    loss = open_loss(HardLabels(), student, None, stream.draw(0, None), from_seed(0))
    return fit(student, stream, loss, settings=settings, rng=from_seed(0), rules=rules, **more)


def half(schedule: str = "alternate", share: float = 0.5) -> Interleaved:
    return Interleaved(source=Large(), share=share, schedule=schedule, full_tail=0.0)


def opened(student: Network, **settings: Any) -> Any:
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    return PooledFilters(**settings).open(student, optimizer, from_seed(0))


def batches() -> tuple[Any, Any]:
    """Return a small batch and a full one."""
    stream = half("progressive").open(tiny.context(SETTINGS), None, tiny.rng())
    return stream.draw(0, None), stream.draw(7, None)


def test_at_share_zero_weights_are_those_of_plain_training_bit_for_bit():
    plain = trained(network(), Large()).network
    made = trained(network(), half(share=0.0), PooledFilters()).network
    assert tiny.same_weights(made, plain)


@pytest.mark.parametrize("pooling", ["split", "mean", "max", "none"])
def test_a_small_step_trains_the_full_filters(pooling):
    student = network()
    before = copy.deepcopy(student.state_dict())
    made = trained(student, half("progressive", 0.99), PooledFilters(pooling=pooling)).network
    assert made.state_dict().keys() == before.keys()
    assert made.body[0].weight.shape == (4, 1, 3, 3)
    assert not torch.equal(made.body[0].weight, before["body.0.weight"])


def test_only_between_the_hooks_layers_go_by_other_filters():
    student = network().train()
    hook = opened(student)
    images = batches()[1].images
    student.eval()
    before = student(images)
    for batch in batches():
        hook.before_step(0, batch)
        assert ("forward" in vars(student.body[0])) == (batch.size_factor < 1)
        hook.after_step(0)
        assert torch.equal(student(images), before)
    assert not any("forward" in vars(layer) for layer in student.modules())
    assert hook.finish() is student


@pytest.mark.parametrize(("kind", "moves"), [("separate", False), ("shared", True)])
def test_running_statistics_go_by_full_steps_alone_where_they_are_separate(kind, moves):
    student = network().train()
    hook = opened(student, statistics=kind)
    before = copy.deepcopy(dict(student.named_buffers()))
    small, full = batches()
    hook.before_step(0, small)
    answer = student(small.images)
    hook.after_step(0)
    same = [torch.equal(value, before[name]) for name, value in student.named_buffers()]
    assert all(same) != moves
    hook.before_step(1, full)
    student(full.images)
    hook.after_step(1)
    assert int(student.body[1].num_batches_tracked) == 1 + moves
    assert answer.shape == (4, 3)


def test_a_small_step_normalises_by_its_own_batch():
    student = network().train()
    hook = opened(student, pooling="none")
    small, _ = batches()
    reference = copy.deepcopy(student)
    expected = reference.body[1](reference.body[0](reference.to_input(small.images)))
    hook.before_step(0, small)
    torch.testing.assert_close(
        student.body[1](student.body[0](student.to_input(small.images))), expected
    )
    student.body[1].eval()  # a frozen layer stays one
    frozen = student.body[1](small.images.expand(-1, 4, -1, -1))
    hook.after_step(0)
    torch.testing.assert_close(frozen, student.body[1](small.images.expand(-1, 4, -1, -1)))


def test_recalibrated_statistics_are_plain_averages_of_full_batches():
    student = network()
    made = trained(student, half(), PooledFilters(statistics="recalibrated")).network
    (first, *_) = (layer for layer in made.modules() if isinstance(layer, _BatchNorm))
    stream = half().open(stream_context(CONTRACT, made, SETTINGS), None, from_seed(0))
    full = [b for b in (stream.draw(step, None) for step in range(8)) if b.size_factor == 1]
    assert len(full) == 4
    with torch.no_grad():
        means = [made.body[0](made.to_input(batch.images)).mean((0, 2, 3)) for batch in full]
    torch.testing.assert_close(first.running_mean, torch.stack(means).mean(0))
    assert first.momentum == 0.1
    assert not made.training


def test_operations_are_nine_or_four_times_fewer():
    student = network()
    # 9 x 16^2 x 4, 9 x 8^2 x 16 and 8^2 x 16 multiply-accumulates.
    full = 9216 + 9216 + 1024
    for pooling, small in (("split", 2304 // 9 * 4 + 2304 // 9 * 4 + 256), ("none", full // 4)):
        hook = opened(student, pooling=pooling)
        assert hook._small_steps.operations == (full, small)
    small_batch, _ = batches()
    hook.before_step(0, small_batch)
    hook.after_step(0)
    assert float(hook.metrics["operations"]) == full / 4


def test_what_was_saved_is_told_of_the_whole_run():
    result = trained(network(), half(), PooledFilters())
    assert result.totals["small_steps"] == 4
    assert result.totals["operations_saved"] == pytest.approx(0.5 * (1 - 2304 / 19456))
    assert result.totals.keys() >= {"full_step_seconds", "small_step_seconds", "time_saved"}
    assert result.terms["metrics"]["small_steps"] == 0.5
    assert result.terms["metrics"]["operations"] == pytest.approx((19456 + 2304) / 2)


def test_a_run_that_goes_on_ends_with_the_same_weights_and_counts():
    rule = PooledFilters(statistics="recalibrated")
    whole = trained(network(), half(), rule)
    memory = tiny.Memory(3)
    trained(network(), half(), rule, checkpointer=memory)
    memory.held = memory.states[0]
    again = trained(network(), half(), rule, checkpointer=memory)
    assert tiny.same_weights(again.network, whole.network)
    assert again.totals["small_steps"] == whole.totals["small_steps"]


def test_a_teacher_sees_full_images_whatever_the_student_sees():
    seen = []
    teacher = network(1)
    teacher.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    distill(
        network(),
        teacher,
        half(),
        SoftTargets(),
        settings=SETTINGS,
        context=stream_context(CONTRACT, teacher, SETTINGS),
        rng=from_seed(0),
        rules=[PooledFilters()],
    )
    assert set(seen) == {16}


def test_remarks_say_what_a_small_step_costs_and_what_keeps_its_filter():
    student = network()
    student.body[0].padding_mode = "reflect"
    rule = PooledFilters()
    assert isinstance(rule, RemarksOnTraining)
    (told,) = rule.remarks(student, steps=10, optimizer="sgd")
    assert told.startswith("a small step takes 18% of a full one's operations; 1 of 2 convol")
    assert "1 with dilated or even filters, or other padding, keep theirs" in told
    (told,) = PooledFilters(pooling="none").remarks(student, steps=10, optimizer="sgd")
    assert told == "a small step takes 25% of a full one's operations; filters stay as they are"


def test_trying_leaves_no_trace_in_the_network():
    student = network().train()
    before = copy.deepcopy(student.state_dict())
    state = torch.random.get_rng_state()
    opened(student)
    assert student.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_networks_that_cannot_are_refused_with_what_would_do():
    with pytest.raises(ValueError, match="maps of 2 pixels a side, and 4 are needed; take images"):
        opened(network(contract=replace(CONTRACT, size=(8, 8))))
    fixed = network()
    fixed.body[7] = nn.Identity()
    fixed.body[9] = nn.Linear(256, 3)
    with pytest.raises(ValueError, match="does not answer images of 8 x 8 beside those of 16 x 16"):
        opened(fixed)
    vit = Network(build("vit-small", classes=3, channels=1, size=(16, 16)), CONTRACT)
    with pytest.raises(ValueError, match="take one with global pooling before its classifier"):
        opened(vit)
    with pytest.raises(ValueError, match="for a Network that takes images"):
        PooledFilters().remarks(nn.Linear(2, 2), steps=1, optimizer="sgd")
