"""DFAD: a generator maximises the discrepancy of student and teacher, the student minimises it.

Teacher T, student S, generator G, codes z ~ N(0, 1); the min-max game (sec. 3)

    D(G) = E_z (1/n) || T(G(z)) - S(G(z)) ||_1        min over S, max over G

Every `imitation_steps` draws G takes a step on

    L_G = -D                    for outputs that are one vector per image
    L_G = -log(D + 1)           for dense outputs: the gradient of -D divided by D + 1, which slows
                                G while the discrepancy is large

against the current student; the objective `LogitL1` trains the student. Samples are used once. T is
in eval mode, S and G are in training mode in both steps.

Fang, Song, Shen, Wang, Chen, Song: arXiv:1912.11006; similar and earlier, Micaelli, Storkey:
arXiv:1905.09768.
Differs from the paper: G's batch does not update the student's BatchNorm statistics, its buffers
are restored; images are clipped to [0, 1] (`nets.generators`); a collapse is detected.
"""

import copy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch, StreamContext, image_batch
from doublure.core.seeding import child, child_seed
from doublure.nets.generators import GeneratorPlan
from doublure.nets.preserve_state import preserve_state
from doublure.objectives.logit_l1 import CARD as OBJECTIVE_CARD
from doublure.objectives.logit_l1 import logit_l1_loss
from doublure.sources.collapse import CollapseCheck, CollapseWatch

CARD = replace(
    OBJECTIVE_CARD,
    needs=("logits", "gradients"),
    reported={
        "MNIST, LeNet5 to LeNet5-half": 98.3,
        "the same on noise": 74.7,
        "the same on the original data": 98.8,
        "CIFAR-10, ResNet-34 to ResNet-18": 93.3,
        "the same on noise (CIFAR-10)": 10.1,
        "the same on the original data (CIFAR-10)": 93.9,
        "CIFAR-100, ResNet-34 to ResNet-18": 67.7,
        "Caltech101, ResNet-34 to ResNet-18": 73.5,
        "CamVid mIoU, DeepLabv3": 53.5,
        "NYUv2 mIoU, DeepLabv3": 36.4,
    },
)

GeneratorLoss = Literal["auto", "linear", "log"]


def generator_loss(
    student_outputs: Float[Tensor, " batch *outputs"],
    teacher_outputs: Float[Tensor, " batch *outputs"],
    *,
    logarithm: bool,
) -> Float[Tensor, ""]:
    """Return -D, or -log(D + 1)."""
    discrepancy = logit_l1_loss(student_outputs, teacher_outputs).mean()
    return -torch.log1p(discrepancy) if logarithm else -discrepancy


@dataclass(frozen=True, kw_only=True)
class DFAD:
    """Source: an adversarial generator. Default: the paper's setting for CIFAR.

    Args:
        generator: architecture of the generator.
        imitation_steps: student steps between two updates of the generator.
        generator_steps: generator steps per update.
        learning_rate: learning rate of the generator's Adam.
        milestones: shares of the run at which this rate is reduced.
        decay: factor of each reduction.
        loss: "linear", "log", or "auto": log for dense outputs.
        student_evaluates: whether the student is in eval mode during generator steps.
        collapse: when the generator counts as collapsed.
    """

    generator: GeneratorPlan = field(default_factory=GeneratorPlan)
    imitation_steps: int = 5
    generator_steps: int = 1
    learning_rate: float = 1e-3
    milestones: tuple[float, ...] = (0.2, 0.4)
    decay: float = 0.1
    loss: GeneratorLoss = "auto"
    student_evaluates: bool = False
    collapse: CollapseCheck = field(default_factory=CollapseCheck)

    def __post_init__(self) -> None:
        for name in ("imitation_steps", "generator_steps", "learning_rate", "decay"):
            positive(name, getattr(self, name))
        one_of("loss", self.loss, get_args(GeneratorLoss))

    @property
    def optimises(self) -> Literal["generator"]:
        return "generator"

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "DFADStream":
        if teacher is None:
            raise ValueError(
                "dfad needs a teacher to train its generator, but there is none; "
                "use a source without a teacher, such as shaders"
            )
        return DFADStream(self, context, teacher, rng)

    def learning_rate_at(self, progress: float) -> float:
        """Return the generator's learning rate after a share `progress` of the run."""
        reductions = sum(progress >= milestone for milestone in self.milestones)
        return self.learning_rate * self.decay**reductions


class DFADStream:
    """The stream of `DFAD`: the generator, its optimizer and the check for collapse."""

    def __init__(
        self, settings: DFAD, context: StreamContext, teacher: nn.Module, rng: torch.Generator
    ) -> None:
        self._settings, self._context, self._teacher, self._rng = settings, context, teacher, rng
        self._watch = CollapseWatch(settings.collapse, context, teacher)
        self._begin()
        self._discrepancy = torch.zeros(())

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        settings = self._settings
        rng = child(self._rng, self._context.split, self._context.rank, step)
        turns = settings.generator_steps if step and step % settings.imitation_steps == 0 else 0
        for turn in range(turns):
            self._generator_step(step, student, child(rng, "play", turn))
        if self._watch.due(step) and self._watch.must_restart(
            step, self._make, student, child(rng, "look")
        ):
            self._begin()
        with torch.no_grad():
            images = self._make(self._context.batch_size, child(rng, "codes"))
        metrics = {"discrepancy": self._discrepancy, "teacher_passes": torch.tensor(2.0 * turns)}
        return image_batch(images, metrics=metrics | self._watch.metrics())

    def state_dict(self) -> dict[str, Any]:
        state = {
            "generator": self._generator.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "discrepancy": self._discrepancy,
            "watch": self._watch.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)
        self._watch.load_state_dict(state["watch"])
        self._generator.load_state_dict(state["generator"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._discrepancy = state["discrepancy"]

    def _begin(self) -> None:
        """Create a new generator; after each restart it has other initial weights."""
        rng = child(self._rng, "generator", self._context.rank, self._watch.restarts)
        generator = self._settings.generator.make(self._context.contract, rng)
        self._generator = generator.to(self._context.device).train()
        self._optimizer = torch.optim.Adam(generator.parameters(), self._settings.learning_rate)

    def _make(self, num_images: int, rng: torch.Generator) -> Tensor:
        images: Tensor = self._generator(self._generator.draw_codes(num_images, rng))
        return images

    def _generator_step(self, step: int, student: nn.Module | None, rng: torch.Generator) -> None:
        """Take one step of the generator, against teacher and student."""
        if student is None:
            raise ValueError(
                "dfad trains its generator against a student, but there is none; "
                "use distill --method dfad, or a source that needs no student"
            )
        images = self._make(self._context.batch_size, rng)
        teacher_outputs = _outputs(self._teacher(images))
        seed = child_seed(rng.initial_seed(), "student")
        with preserve_state(
            student, seed, evaluate=self._settings.student_evaluates
        ) as frozen_student:
            loss = generator_loss(
                _outputs(frozen_student(images)),
                teacher_outputs,
                logarithm=self._takes_logarithm(teacher_outputs),
            )
            parameters = list(self._generator.parameters())
            gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate_at(step / self._context.steps)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        loss = loss.detach()
        self._discrepancy = torch.expm1(-loss) if self._takes_logarithm(teacher_outputs) else -loss

    def _takes_logarithm(self, outputs: Tensor) -> bool:
        return self._settings.loss == "log" or (self._settings.loss == "auto" and outputs.dim() > 2)


def _outputs(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"dfad needs one tensor of logits, but the output of a network is a "
            f"{type(output).__name__}; use a source that calls no network, such as shaders"
        )
    return output.float()


_CALTECH = DFAD(
    generator=GeneratorPlan(shape="deconvolution", head="tanh", start="dcgan"),
    milestones=(1 / 3, 2 / 3),
)
PUBLISHED = {
    "cifar": DFAD(),
    "mnist": DFAD(generator=GeneratorPlan(latent=100), milestones=()),
    "caltech101": _CALTECH,
    "camvid": _CALTECH,
    "nyuv2": DFAD(generator=_CALTECH.generator, milestones=(1 / 3, 2 / 3), decay=0.3),
}
