"""The training loop: draw a batch, forward pass, loss, optimizer step.

It knows no teacher, no paper and no file. A stream returns batches, a loss turns the student's
outputs into named scalars, rules act between optimizer steps, a checkpointer stores the state, and
a metrics log receives a line of values at intervals.

A run is a function of (settings, seed, student, stream, loss): a run that is interrupted at any
step and resumed from the checkpointer's state gives the same bits on the CPU. To make dropout part
of that function, torch's global generator is seeded in each step, and restored at the end.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from doublure.core.checks import one_of, positive, share
from doublure.core.interruption import Stopped, StopRequest, stop_request
from doublure.core.protocols import (
    Batch,
    GradientHook,
    Hook,
    Loss,
    LossTerms,
    Rule,
    Stream,
    metrics_of,
)
from doublure.core.seeding import child, child_seed, reseed
from doublure.core.training_notes import HasTotals
from doublure.engine.averaging import average_of, check_average
from doublure.engine.non_finite import NonFiniteLossError, check_weights
from doublure.engine.optimizers import SGD, Optimizer
from doublure.engine.parameter_groups import ParameterGroup, parameter_groups
from doublure.engine.schedules import Cosine, Schedule, progress_at
from doublure.nets.features import FeatureRecorder, device_of
from doublure.nets.memory_format import to_channels_last_
from doublure.nets.precision import Precision

MetricsLogger = Callable[[dict[str, Any]], None]


@runtime_checkable
class Checkpointer(Protocol):
    """Stores the state of a run."""

    def due(self, step: int) -> bool: ...
    def save(self, state: dict[str, Any]) -> None: ...
    def load(self) -> dict[str, Any] | None: ...


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of the student's training.

    Args:
        steps: optimizer steps, the only unit of length; 0 does not train.
        batch_size: images per step, over all processes.
        replanned: (step, steps) pairs of a budget corrected during training: the number of steps
            planned until that step. Sources use the first; the schedule continues from its place.
        schedule: schedule of the learning rate; `learning_rate` is its peak.
        rates: (glob, factor) pairs that multiply the learning rate of parameters by their name.
        groups: rate and decay of parameters by kind of layer.
        precision: precision of both networks' passes; losses, statistics and weights are float32.
        channels_last: whether networks use the channels-last format, if they can.
        gradient_clip: largest norm of the gradient, or None.
        ema_decay: decay of an exponential moving average that becomes the student, or None.
        log_every: steps between two lines of the metrics log.
    """

    steps: int = 10_000
    replanned: tuple[tuple[int, int], ...] = ()
    batch_size: int = 256
    optimizer: Optimizer = field(default_factory=SGD)
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    schedule: Schedule = field(default_factory=Cosine)
    rates: tuple[tuple[str, float], ...] = ()
    groups: tuple[ParameterGroup, ...] = ()
    precision: Precision = "float32"
    channels_last: bool = True
    compile: bool = False
    gradient_clip: float | None = None
    ema_decay: float | None = None
    log_every: int = 50

    def __post_init__(self) -> None:
        for name in ("batch_size", "learning_rate", "log_every"):
            positive(name, getattr(self, name))
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, got {self.steps}")
        one_of("precision", self.precision, get_args(Precision))
        if self.gradient_clip is not None:
            positive("gradient_clip", self.gradient_clip)
        if self.ema_decay is not None:
            share("ema_decay", self.ema_decay)

    @property
    def first_planned(self) -> int:
        """Steps planned before step 0."""
        return self.replanned[0][1] if self.replanned else self.steps

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        planned = self.first_planned
        if self.replanned:  # before the first correction it is the step itself, rounded in between
            done = progress_at(step, self.steps, self.replanned)
            step = min(int(done * planned + 1e-6), planned - 1)
        return self.schedule.rate_at(self.learning_rate, step, planned)


# Returns the settings to go on by after a step: told the steps done and what its batch said.
Pacing = Callable[[int, Mapping[str, Tensor], FitSettings], FitSettings]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Result of a training.

    Args:
        terms: the last line of metrics: loss, its terms and batch metrics, as means over its steps.
        seconds: wall time of the loop, over all parts of an interrupted run.
        totals: figures of the rules, over the whole run.
    """

    network: nn.Module
    steps: int
    images: int
    seconds: float
    terms: dict[str, Any]
    totals: dict[str, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds > 0 else math.nan


def fit(
    student: nn.Module,
    stream: Stream,
    loss: Loss,
    *,
    settings: FitSettings,
    rng: torch.Generator,
    rules: Sequence[Rule] = (),
    checkpointer: Checkpointer | None = None,
    logger: MetricsLogger | None = None,
    pacing: Pacing | None = None,
    world: int = 1,
) -> FitResult:
    """Train `student` in place and return it, as changed by the rules.

    Args:
        pacing: may correct the number of steps after each of them.
        world: number of processes; above 1, torch.distributed must be up.

    Raises:
        NonFiniteLossError: at the first line of metrics or checkpoint after a non-finite term.
        NonFiniteWeightsError: at the first checkpoint, or at the end, with such a weight.
    """
    with _seeded_apart(device_of(student)):
        loop = _Loop(student, stream, loss, settings, rng, rules, world)
        loop.run(checkpointer, logger, pacing)
        check_weights(loop.student, loop.step)
        return loop.result()


class _Step(nn.Module):
    """Student and loss in one module, so that processes average the gradients of both."""

    def __init__(self, recorder: FeatureRecorder, loss: Loss) -> None:
        super().__init__()
        self.student = recorder.network
        self.adapters = nn.ParameterList(loss.parameters())
        self._recorder = recorder
        self._loss = loss

    def forward(self, batch: Batch) -> LossTerms:
        return self._loss(self._recorder.record(batch.views["student"]), batch.teacher, batch)


class _Meter:
    """Sums terms on the device, one transfer per line; records the first non-finite step."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._terms: list[str] = []
        self._bad: dict[str, Tensor] = {}
        self._count = 0

    def add(self, step: int, terms: LossTerms, metrics: dict[str, Tensor]) -> None:
        self._count += 1
        self._terms = list(terms)
        for name, value in (terms | metrics).items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        for name, value in terms.items():
            now = torch.full_like(value, math.inf, dtype=torch.float64)
            now.masked_fill_(~torch.isfinite(value.detach()), step)
            self._bad[name] = torch.minimum(self._bad.get(name, now), now)

    def check(self) -> None:
        first, name = min(((s.item(), n) for n, s in self._bad.items()), default=(math.inf, ""))
        if math.isfinite(first):
            raise NonFiniteLossError(
                f"the term '{name}' became non-finite at step {int(first)}; nothing was saved "
                "after it. Lower learning_rate, set gradient_clip, or use precision=float32"
            )

    def close_line(self) -> dict[str, Any]:
        self.check()
        means = {name: value.item() / self._count for name, value in self._sums.items()}
        terms = {name: means.pop(name) for name in self._terms}
        self._sums, self._count = {}, 0
        return {"loss": sum(terms.values()), **terms, "metrics": means}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._count = dict(state["sums"]), state["count"]


class _Loop:
    def __init__(
        self,
        student: nn.Module,
        stream: Stream,
        loss: Loss,
        settings: FitSettings,
        rng: torch.Generator,
        rules: Sequence[Rule],
        world: int,
    ) -> None:
        self.settings, self.stream, self.loss = settings, stream, loss
        # Each process has its own dropout.
        rank = torch.distributed.get_rank() if world > 1 else 0
        self.seed = child_seed(rng.initial_seed(), "step", rank)
        self.student, self.device = student.train(), device_of(student)
        if settings.channels_last:
            to_channels_last_(student)
        if settings.compile:
            student.compile()
        self.recorder = FeatureRecorder(student, loss.features.student, settings.precision)
        self.module: nn.Module = _Step(self.recorder, loss)
        self.optimizer = _optimizer(self.module, settings)
        self.average = average_of(student, settings.ema_decay)
        self.hooks: list[Hook] = [
            rule.open(student, self.optimizer, child(rng, "rule", i))
            for i, rule in enumerate(rules)
        ]
        self.parameters = list(self.module.parameters())  # with what rules have added
        if self.average is not None:
            check_average(self.average, student)
        if world > 1:
            # Some objectives never use the classifier, consistently in all steps.
            self.module = DistributedDataParallel(self.module, static_graph=True)
        self.meter, self.line = _Meter(), dict[str, Any]()
        self.step, self.seconds, self.world = 0, 0.0, world

    def run(
        self,
        checkpointer: Checkpointer | None,
        logger: MetricsLogger | None,
        pacing: Pacing | None,
    ) -> None:
        saved = checkpointer.load() if checkpointer else None
        if saved is not None:
            self.load_state_dict(saved)
        began = time.perf_counter() - self.seconds
        # Of several processes each is stopped at a step of its own: no checkpoint can be agreed on.
        listens = checkpointer is not None and self.world == 1
        with contextlib.ExitStack() as stack:
            stack.callback(self.recorder.close)
            request = stack.enter_context(stop_request()) if listens else StopRequest()
            while self.step < self.settings.steps:
                metrics = self._advance()
                if pacing is not None and self.step < self.settings.steps:
                    self.settings = pacing(self.step, metrics, self.settings)
                last = self.step == self.settings.steps
                self.seconds = time.perf_counter() - began
                if self.step % self.settings.log_every == 0 or last:
                    self._close_line(logger)
                if checkpointer and (checkpointer.due(self.step) or last or request.number):
                    self.meter.check()
                    check_weights(self.student, self.step)
                    checkpointer.save(self.state_dict())
                if request.number:
                    raise Stopped(request.number, f"step {self.step} of {self.settings.steps}")

    def _advance(self) -> Mapping[str, Tensor]:
        """Take a step; return what its batch said."""
        settings = self.settings
        rate = settings.rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        reseed(child_seed(self.seed, self.step), self.device)
        batch = self.stream.draw(self.step, self.student)
        for hook in self.hooks:
            hook.before_step(self.step, batch)
        terms = self.module(batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]  # torch's
        for hook in self.hooks:
            if isinstance(hook, GradientHook):
                hook.after_backward(self.step)
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_clip)
        self.optimizer.step()
        for hook in self.hooks:
            hook.after_step(self.step)
        if self.average is not None:
            self.average.update_parameters(self.student)
        metrics = {**batch.metrics, **metrics_of(self.loss)}
        for hook in self.hooks:
            metrics.update(metrics_of(hook))
        self.meter.add(self.step, terms, metrics)
        self.step += 1
        return batch.metrics

    def _close_line(self, logger: MetricsLogger | None) -> None:
        self.line = self.meter.close_line()
        if logger is not None:
            rate = self.optimizer.param_groups[0]["lr"]
            speed = self.step * self.settings.batch_size / self.seconds
            logger(
                {"step": self.step, **self.line, "learning_rate": rate}
                | {"images_per_second": speed, "seconds": self.seconds}
            )

    def result(self) -> FitResult:
        network: nn.Module = self.student if self.average is None else self.average.module
        totals: dict[str, float] = {}
        for hook in self.hooks:
            totals |= hook.totals if isinstance(hook, HasTotals) else {}
            made = hook.finish()
            network = network if made is self.student else made
        images = self.step * self.settings.batch_size
        return FitResult(
            network=network.eval(),
            steps=self.step,
            images=images,
            seconds=self.seconds,
            terms=self.line,
            totals=totals,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "loss": self.loss.state_dict(),
            "adapters": [p.detach() for p in self.loss.parameters()],
            "stream": self.stream.state_dict(),
            "hooks": [hook.state_dict() for hook in self.hooks],
            "meter": self.meter.state_dict(),
            "line": self.line,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.loss.load_state_dict(state["loss"])
        with torch.no_grad():
            for parameter, saved in zip(self.loss.parameters(), state["adapters"], strict=True):
                parameter.copy_(saved)
        self.stream.load_state_dict(state["stream"])
        for hook, saved in zip(self.hooks, state["hooks"], strict=True):
            hook.load_state_dict(saved)
        self.meter.load_state_dict(state["meter"])
        self.line = state["line"]
        self.step, self.seconds = state["step"], state["seconds"]


def _optimizer(module: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    groups = parameter_groups(module, settings.groups, settings.rates)
    return settings.optimizer.make(groups, rate=settings.learning_rate, decay=settings.weight_decay)


@contextlib.contextmanager
def _seeded_apart(device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
