"""DFAD: a generator looks for images on which student and teacher differ, the student follows.

Teacher T, student S, generator G, codes z ~ N(0, 1); the min-max game (sec. 3)

    D(G) = E_z (1/n) || T(G(z)) - S(G(z)) ||_1        min over S, max over G

Every `imitation_steps` draws G takes a step on

    L_G = -D                    outputs that are one vector an image
    L_G = -log(D + 1)           dense outputs: the gradient of -D over D + 1, which damps G while
                                the two are far apart

against the student as it stands; the objective `LogitL1` is the student's side. Samples are used
once. T is in eval mode, S and G in training mode in both steps.

Fang, Song, Shen, Wang, Chen, Song: arXiv:1912.11006; similar and earlier, Micaelli, Storkey:
arXiv:1905.09768.
Differs from the paper: the student's BatchNorm statistics do not see G's batch, its buffers come
back as they were; images are clipped to [0, 1] (`nets.generators`); a collapse is noticed.
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
    """Source: a generator that plays against the student. Default: the paper's CIFAR setting.

    Args:
        generator: which one.
        imitation_steps: draws for each turn of the generator.
        generator_steps: steps of the generator a turn.
        learning_rate: of the generator's Adam.
        milestones: shares of the run at which that rate falls.
        decay: factor by which it falls.
        loss: "linear", "log", or "auto": log for dense outputs.
        student_evaluates: the student is asked in eval mode in the generator's turn.
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
                "the game is about a teacher's answers, but there is no teacher; "
                "use a source that needs none, such as shaders"
            )
        return DFADStream(self, context, teacher, rng)

    def learning_rate_at(self, progress: float) -> float:
        """Return the generator's learning rate at a share of the run."""
        falls = sum(progress >= milestone for milestone in self.milestones)
        return self.learning_rate * self.decay**falls


class DFADStream:
    """The game at work: the generator, its optimizer, and whoever watches for collapse."""

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
            self._play(step, student, child(rng, "play", turn))
        if self._watch.due(step) and self._watch.tell(
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
        """Start a generator afresh; each one has weights of its own."""
        numbers = child(self._rng, "generator", self._context.rank, self._watch.restarts)
        made = self._settings.generator.make(self._context.contract, numbers)
        self._generator = made.to(self._context.device).train()
        self._optimizer = torch.optim.Adam(made.parameters(), self._settings.learning_rate)

    def _make(self, num_images: int, rng: torch.Generator) -> Tensor:
        images: Tensor = self._generator(self._generator.draw_codes(num_images, rng))
        return images

    def _play(self, step: int, student: nn.Module | None, rng: torch.Generator) -> None:
        """Let the generator take a step against teacher and student."""
        if student is None:
            raise ValueError(
                "this generator plays against a student, but none is there; "
                "use distill --method dfad, or a source that needs no student"
            )
        images = self._make(self._context.batch_size, rng)
        taught = _outputs(self._teacher(images))
        seed = child_seed(rng.initial_seed(), "student")
        with preserve_state(student, seed, evaluate=self._settings.student_evaluates) as asked:
            loss = generator_loss(
                _outputs(asked(images)), taught, logarithm=self._takes_logarithm(taught)
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
        self._discrepancy = torch.expm1(-loss) if self._takes_logarithm(taught) else -loss

    def _takes_logarithm(self, outputs: Tensor) -> bool:
        return self._settings.loss == "log" or (self._settings.loss == "auto" and outputs.dim() > 2)


def _outputs(answer: Any) -> Tensor:
    if not isinstance(answer, Tensor):
        raise TypeError(
            f"the game needs one tensor of logits, but a network answers with "
            f"{type(answer).__name__}; use a source that asks nobody, such as shaders"
        )
    return answer.float()


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
