"""Mean and std that are learned: exact at the end, whatever scale the images are in."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from doublure.core.protocols import Batch
from doublure.core.seeding import from_seed
from doublure.engine.distill import stream_context
from doublure.engine.fit import FitResult, FitSettings, fit
from doublure.engine.parameter_groups import undecayed_vectors
from doublure.nets.batchnorm_init import rescale_batchnorm_
from doublure.nets.network import Network
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.weighted import open_loss
from doublure.rules.learned_normalisation import LearnedNormalisation
from tests import tiny

DEFAULTS = {"scale": 0.1, "deviation": 0.58, "learn": True}
# Running statistics forget what they began with: 0.9^120 is 3e-6.
SETTINGS = FitSettings(steps=120, batch_size=16, learning_rate=0.05, log_every=60)


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Source: grey noise with a contrast, through a function."""

    change: Callable[[Tensor], Tensor]

    def open(self, context: Any, teacher: Any, rng: torch.Generator) -> "ChangedStream":
        return ChangedStream(tiny.Grey(labels=True).open(context, teacher, rng), self.change)


class ChangedStream:
    def __init__(self, stream: Any, change: Callable[[Tensor], Tensor]) -> None:
        self.stream, self.change = stream, change

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch: Batch = self.stream.draw(step, student)
        return batch.map_views(lambda x: self.change(x / 2 + 0.4))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def network(seed: int = 0, **told: Any) -> Network:
    made = Network(tiny.network(seed), replace(tiny.CONTRACT, **told))
    rescale_batchnorm_(made, 0.1)
    return made


def trained(
    student: nn.Module,
    *rules: Any,
    settings: FitSettings = SETTINGS,
    change: Callable[[Tensor], Tensor] = lambda x: x,
    **more: Any,
) -> FitResult:
    context = stream_context(tiny.CONTRACT, student, settings)
    stream = Changed(change=change).open(context, None, from_seed(0))
    loss = open_loss(HardLabels(), student, None, stream.draw(0, None), from_seed(0))
    return fit(student, stream, loss, settings=settings, rng=from_seed(0), rules=rules, **more)


def test_mean_and_std_are_those_of_the_images_over_the_scale():
    student = network()
    made = trained(student, LearnedNormalisation(learn=False)).network
    assert made is student
    # Of (uniform noise) / 2 + 0.4, whose deviation is 1 / sqrt(12) of its range.
    assert made.contract.mean[0] == pytest.approx(0.65, abs=0.01)
    assert made.contract.std[0] == pytest.approx(0.5 / 12**0.5 / 0.058, rel=0.02)
    assert made.contract.mean == tuple(made.mean.flatten().tolist())
    assert made.contract.std == tuple(made.std.flatten().tolist())


def test_nothing_of_the_layer_is_left():
    plain, student = network(), network()
    made = trained(student, LearnedNormalisation()).network
    assert made.state_dict().keys() == plain.state_dict().keys()
    assert not made._forward_pre_hooks
    assert [name for name, _ in made.named_children()] == ["body"]


def test_the_network_answers_as_it_did_with_the_layer_in_front():
    student, seen = network(), torch.rand(8, 1, 8, 8, generator=torch.manual_seed(3))
    rule = LearnedNormalisation()
    hooks = []

    class Kept:
        def open(self, student: nn.Module, optimizer: Any, rng: torch.Generator) -> Any:
            hooks.append(rule.open(student, optimizer, rng))
            return Last(student)

    trained(student, Kept())
    student.eval()
    before = student(seen)
    copied = copy.deepcopy(student)
    assert hooks[0].finish() is student
    torch.testing.assert_close(student(seen), before, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(copied(seen), before, rtol=0.0, atol=0.0)


class Last:
    """A hook that does nothing."""

    def __init__(self, student: nn.Module) -> None:
        self.student = student

    def before_step(self, step: int, batch: Batch) -> None:
        pass

    def after_step(self, step: int) -> None:
        pass

    def finish(self) -> nn.Module:
        return self.student

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_what_was_said_of_mean_and_std_does_not_matter():
    one = trained(network(mean=(0.1,), std=(3.0,)), LearnedNormalisation()).network
    other = trained(network(), LearnedNormalisation()).network
    assert tiny.same_weights(one, other)
    assert one.contract == other.contract


def test_a_network_of_rescaled_images_is_the_same_with_another_mean_and_std():
    one = trained(network(), LearnedNormalisation()).network
    other = trained(network(), LearnedNormalisation(), change=lambda x: 0.3 * x + 0.4).network
    images = torch.rand(8, 1, 8, 8, generator=torch.manual_seed(3))
    # eps is 1e-5 beside a variance of 0.02, which 0.09 times is 0.002.
    torch.testing.assert_close(other(0.3 * images + 0.4), one(images), rtol=0.02, atol=0.02)
    assert other.contract.mean[0] == pytest.approx(0.3 * one.contract.mean[0] + 0.4, rel=1e-4)
    assert other.contract.std[0] == pytest.approx(0.3 * one.contract.std[0], rel=0.01)


def test_the_scale_learns_like_those_of_the_networks_own_batchnorm():
    student = network()
    groups = undecayed_vectors(student, batchnorm_rate=0.01)
    settings = replace(SETTINGS, groups=groups)
    seen: list[dict[str, Any]] = []

    class Looking:
        def open(self, student: nn.Module, optimizer: Any, rng: torch.Generator) -> Any:
            seen.extend(optimizer.param_groups)
            return Last(student)

    trained(student, LearnedNormalisation(), Looking(), settings=settings)
    (*_, added) = seen
    (own,) = (g for g in seen if any(p is student.body[1].weight for p in g["params"]))
    assert len(added["params"]) == 1
    assert (added["factor"], added["weight_decay"]) == (0.01, 0.0)
    assert {**added, "params": 0} == {**own, "params": 0}


def test_a_scale_is_kept_positive():
    student = network()
    settings = replace(SETTINGS, learning_rate=100.0, gradient_clip=None, steps=3, log_every=3)
    made = trained(student, LearnedNormalisation(), settings=settings).network
    assert made.contract.std[0] > 0


def test_a_run_that_goes_on_ends_with_the_same_normalisation():
    whole = trained(network(), LearnedNormalisation()).network
    memory = tiny.Memory(15)
    trained(network(), LearnedNormalisation(), checkpointer=memory)
    memory.held = memory.states[0]
    again = trained(network(), LearnedNormalisation(), checkpointer=memory).network
    assert again.contract == whole.contract
    assert tiny.same_weights(again, whole)


def test_a_constant_channel_makes_no_nan():
    made = trained(network(), LearnedNormalisation(), change=lambda x: 0.0 * x + 0.5).network
    assert made(torch.rand(2, 1, 8, 8)).isfinite().all()
    assert made.contract.std[0] > 0


def test_one_image_a_step_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 2 on each process"):
        trained(network(), LearnedNormalisation(), settings=replace(SETTINGS, batch_size=1))


def test_an_average_of_the_weights_is_refused():
    with pytest.raises(ValueError, match=r"a rule has added input_batchnorm\.bias, input_b"):
        trained(network(), LearnedNormalisation(), settings=replace(SETTINGS, ema_decay=0.9))


def test_what_is_no_network_of_images_is_refused():
    with pytest.raises(ValueError, match="for a Network that takes images, which this Sequential"):
        trained(tiny.network(0), LearnedNormalisation())
    with pytest.raises(ValueError, match="deviation must be positive"):
        LearnedNormalisation(deviation=0.0)
