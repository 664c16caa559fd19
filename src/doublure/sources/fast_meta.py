"""Fast data-free distillation: a meta-learned generator that synthesises a batch in a few steps.

Teacher T, student S, labels y, codes z, generator G with weights theta. Each draw is one call:

    theta' = theta; k steps of Adam on (theta', z) on the loss of x = G_theta'(z)
    L     = a_bn L_bn + a_oh CE(T(x~), y) + a_adv L_adv
    L_bn  = sum_l | (1-m) mu_l + m mu^_l - m_l |_2 + the same of variances
    L_adv = - mean_b KL(p_T || p_S) [argmax S = argmax T]
    theta <- Adam(theta, sum over the k steps of grad_theta' L)

x~ is x shifted and flipped at random. L_bn compares the statistics m_l of the teacher's BatchNorm
layers with the moving average mu^ of all batches, so that a single batch can differ. L_adv favours
images on which the student differs but predicts the same class. Theta learns common features (by
first-order meta-learning), so that k = 2 to 10 steps reach what takes 2000 steps from noise.

The images with the smallest loss of the k steps are kept; `Replay` stores them for later steps.

Fang, Mo, Wang, Song, Bei, Zhang, Song: arXiv:2112.06253. `mode` and `contrast` also give CMI
(arXiv:2105.08584), `mode`, `noisy_layer` and `renew` NAYER (arXiv:2310.00258).
Differs from the paper: calls are counted, not epochs; a collapse is detected.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive, share
from doublure.core.protocols import Batch, StreamContext, image_batch
from doublure.core.seeding import child, child_seed
from doublure.nets.batchnorm_statistics import (
    MomentsAverage,
    MomentsRecorder,
    batchnorm_layers,
    feature_statistics_loss,
    stored_statistics,
)
from doublure.nets.generators import Generator, GeneratorPlan, initialise_, normal_
from doublure.nets.noisy_layer import FreeCodes, NoisyLayers, label_embeddings
from doublure.nets.preserve_state import preserve_state
from doublure.objectives.soft_targets import soft_target_loss
from doublure.sources.collapse import CollapseCheck, CollapseWatch
from doublure.sources.contrast import Contrast
from doublure.sources.views import shift_and_flip

CARD = Card(
    paper=(
        "Fang, Mo, Wang, Song, Bei, Zhang, Song: Up to 100x Faster Data-free Knowledge "
        "Distillation, arXiv:2112.06253"
    ),
    needs=("logits", "batchnorm", "gradients"),
    reported={
        "CIFAR-10, ResNet-34 to ResNet-18, 2 steps": 92.62,
        "the same, 5 steps": 93.63,
        "the same, 10 steps": 94.05,
        "DeepInversion, 2000 steps": 93.26,
        "hours of synthesis, 10 steps": 0.28,
        "hours of synthesis, DeepInversion": 42.1,
        "CIFAR-10, WRN-40-2 to WRN-16-1, 10 steps": 89.29,
        "the same, DeepInversion": 83.04,
        "ImageNet, ResNet-50 to ResNet-50, 50 steps": 68.61,
    },
)

Mode = Literal["maml", "reptile", "continue", "fresh"]
Renewal = Literal["first", "whole"]

_BETAS = (0.5, 0.999)
# Initialisation (Radford et al.) of the layer that is re-initialised (Fang et al., public code).
_RENEWED_STD = 0.02
_REPTILE_FACTOR = 67.0
_CONTRAST_TEMPERATURE = 0.2


def masked_adversarial_loss(
    student_logits: Float[Tensor, "batch classes"], teacher_logits: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Return -KL(p_T || p_S) in nats where both predict the same class, 0 elsewhere."""
    divergence = soft_target_loss(student_logits, teacher_logits, 1.0)
    return -divergence * (student_logits.argmax(1) == teacher_logits.argmax(1))


@dataclass(frozen=True, kw_only=True)
class FastMeta:
    """Source: a few generator steps per batch. Default: five steps, for ResNets on CIFAR.

    Args:
        generator: architecture of the generator.
        inner_steps: k, the number of steps per batch.
        learning_rate: learning rate of the generator in these steps.
        code_learning_rate: learning rate of the codes, or of the noisy layer.
        mode: update of theta after the k steps: "maml" uses the sum of their gradients, "reptile"
            67 (theta - theta') as the gradient, "continue" theta <- theta', "fresh" no update.
        batchnorm: weight of the distance to the teacher's statistics; 0 without BatchNorm.
        one_hot: weight of the cross-entropy with the labels.
        adversarial: weight of the disagreement with the student.
        momentum: weight of earlier batches in the statistics that are compared.
        warm_up: calls before the adversarial term is used.
        renew_every: calls between two partial re-initialisations of the generator; 0 never.
        renew: part to re-initialise, the "first" layer or the "whole" generator.
        contrast: weight of the contrastive term; see `sources.contrast`.
        noisy_layer: generate codes from class embeddings by random layers, with balanced classes.
        shift: maximum random shift in pixels before the teacher.
        flip: probability of a horizontal flip before the teacher.
        collapse: when the generator counts as collapsed; a draw is a call.
    """

    generator: GeneratorPlan = field(default_factory=lambda: GeneratorPlan(head="sigmoid"))
    inner_steps: int = 5
    learning_rate: float = 3e-3
    code_learning_rate: float = 0.01
    mode: Mode = "maml"
    batchnorm: float = 10.0
    one_hot: float = 0.5
    adversarial: float = 1.33
    momentum: float = 0.9
    warm_up: int = 20
    renew_every: int = 140
    renew: Renewal = "first"
    contrast: float = 0.0
    noisy_layer: bool = False
    shift: int = 4
    flip: float = 0.5
    collapse: CollapseCheck = field(default_factory=lambda: CollapseCheck(every=20))

    def __post_init__(self) -> None:
        for name in ("inner_steps", "learning_rate", "code_learning_rate"):
            positive(name, getattr(self, name))
        weights = ("batchnorm", "one_hot", "adversarial", "contrast")
        for name in (*weights, "warm_up", "renew_every", "shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.batchnorm + self.one_hot > 0:
            raise ValueError("batchnorm or one_hot must be positive: the images need a target")
        share("flip", self.flip)
        for name, kinds in (("mode", Mode), ("renew", Renewal)):
            one_of(name, getattr(self, name), get_args(kinds))

    @property
    def optimises(self) -> Literal["generator"]:
        return "generator"

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "FastMetaStream":
        if teacher is None:
            raise ValueError(
                "fast-meta needs a teacher to synthesise images, but there is none; "
                "use a source without a teacher, such as shaders"
            )
        if self.batchnorm and not batchnorm_layers(teacher):
            raise ValueError(
                "fast-meta matches the teacher's BatchNorm statistics, but the teacher has none; "
                "use --method dfad or rdskd, or set batchnorm to 0 and expect poor images"
            )
        if not batchnorm_layers(teacher):
            if self.contrast:
                raise ValueError(
                    "the contrastive term uses inputs of the teacher's BatchNorm layers, but it "
                    "has none; set contrast to 0"
                )
            warnings.warn(
                "the teacher has no BatchNorm statistics: the labels are the only target, and the "
                "generator is likely to collapse; --method dfad and rdskd need no BatchNorm",
                RuntimeWarning,
                stacklevel=2,
            )
        return FastMetaStream(self, context, teacher, rng)


class FastMetaStream:
    """The stream of `FastMeta`: the generator, and the history of its batches."""

    def __init__(
        self, settings: FastMeta, context: StreamContext, teacher: nn.Module, rng: torch.Generator
    ) -> None:
        self._settings, self._context, self._teacher, self._rng = settings, context, teacher, rng
        self._stored = stored_statistics(teacher) if settings.batchnorm else {}
        self._watch = CollapseWatch(settings.collapse, context, teacher)
        self._begin()

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        context, settings = self._context, self._settings
        numbers = child(self._rng, context.split, context.rank)
        rng = child(numbers, step)
        if settings.renew_every and step and step % settings.renew_every == 0:
            self._renew(child(rng, "renewal"))
        opponent = student if settings.adversarial and step >= settings.warm_up else None
        codes = self._codes(child(rng, "codes"))
        batch_images = self._synthesise(codes, opponent, rng)

        def fresh(num_images: int, rng: torch.Generator) -> Tensor:
            return batch_images[:num_images]

        if self._watch.due(step) and self._watch.must_restart(
            step, fresh, student, child(rng, "look")
        ):
            self._begin()
        # Contrast adds three: forward and backward of the local view, forward of the global one.
        passes = torch.tensor((5.0 if settings.contrast else 2.0) * settings.inner_steps)
        metrics = {"synthesis_loss": self._loss, "teacher_passes": passes} | self._watch.metrics()
        return image_batch(batch_images, labels=codes.labels, metrics=metrics)

    def state_dict(self) -> dict[str, Any]:
        state = {
            "generator": self._generator.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict(),
            "watch": self._watch.state_dict(),
            "contrast": {} if self._contrast is None else self._contrast.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)
        self._watch.load_state_dict(state["watch"])
        self._generator.load_state_dict(state["generator"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.load_state_dict(state["average"])
        if self._contrast is not None:
            self._contrast.load_state_dict(state["contrast"])

    def _begin(self) -> None:
        settings = self._settings
        numbers = child(self._rng, "generator", self._context.rank, self._watch.restarts)
        generator: Generator = settings.generator.make(self._context.contract, numbers)
        self._generator = generator.to(self._context.device).train()
        rate = settings.learning_rate * settings.inner_steps
        self._optimizer = torch.optim.Adam(generator.parameters(), rate, betas=_BETAS)
        self._average = MomentsAverage(settings.momentum)
        self._contrast: Contrast | None = None
        if settings.contrast:
            shape = (2, self._context.contract.channels, *self._context.contract.size)
            example = torch.zeros(shape, device=self._context.device)
            self._contrast = Contrast(
                self._teacher, example, _CONTRAST_TEMPERATURE, child(numbers, "head")
            )

    def _renew(self, rng: torch.Generator) -> None:
        """Re-initialise the generator's first layer, or all of it, for more diverse batches."""
        if self._settings.renew == "whole":
            initialise_(self._generator, rng, self._settings.generator.start)
        else:
            normal_(self._generator.first.weight, _RENEWED_STD, rng)
            nn.init.zeros_(self._generator.first.bias)

    def _codes(self, rng: torch.Generator) -> FreeCodes | NoisyLayers:
        count, device = self._context.batch_size, self._context.device
        if self._settings.noisy_layer:
            embeddings = label_embeddings(
                self._teacher, self._context.contract.classes, child(self._rng, "embeddings")
            )
            return NoisyLayers(embeddings.to(device), self._generator.latent, count, rng)
        labels = torch.randint(self._context.contract.classes, (count,), generator=rng)
        return FreeCodes(
            self._generator.draw_codes(count, rng), labels.to(device, non_blocking=True)
        )

    def _synthesise(
        self,
        codes: FreeCodes | NoisyLayers,
        opponent: nn.Module | None,
        rng: torch.Generator,
    ) -> Tensor:
        """Take the inner steps, update the generator, and return the images of smallest loss."""
        settings = self._settings
        inner = copy.deepcopy(self._generator)
        if settings.mode == "fresh":
            initialise_(inner, child(rng, "fresh"), settings.generator.start)
        weights, code_parameters = list(inner.parameters()), list(codes.parameters())
        optimizer = torch.optim.Adam(
            [
                {"params": weights, "lr": settings.learning_rate},
                {"params": code_parameters, "lr": settings.code_learning_rate},
            ],
            betas=_BETAS,
        )
        summed = [torch.zeros_like(weight) for weight in weights]
        best, smallest = torch.empty(0), torch.tensor(torch.inf, device=self._context.device)
        for step in range(1 if self._context.draft else settings.inner_steps):
            images = inner(codes())
            loss = self._batch_loss(images, codes.labels, opponent, child(rng, "inner", step))
            gradients = torch.autograd.grad(loss, [*weights, *code_parameters])
            for parameter, gradient in zip([*weights, *code_parameters], gradients, strict=True):
                parameter.grad = gradient
            # The meta-gradient, first order: the sum over the inner steps (weights only).
            for total, gradient in zip(summed, gradients, strict=False):
                total += gradient
            optimizer.step()
            if self._contrast is not None:
                self._contrast.step()
            current = images.detach()
            best = torch.where(loss.detach() < smallest, current, best) if step else current
            smallest = torch.minimum(loss.detach(), smallest)
        self._average.update(self._seen)
        if self._contrast is not None:
            self._contrast.remember()
        self._loss = smallest
        self._learn(inner, summed)
        return best

    def _learn(self, inner: Generator, summed: list[Tensor]) -> None:
        """Update the generator from the inner steps."""
        mode, weights = self._settings.mode, list(self._generator.parameters())
        if mode == "continue":
            self._generator.load_state_dict(inner.state_dict())
        if mode in ("continue", "fresh"):
            return
        if mode == "reptile":
            final = [weight.detach() for weight in inner.parameters()]
            summed = [
                _REPTILE_FACTOR * (weight.detach() - end)
                for weight, end in zip(weights, final, strict=True)
            ]
        for weight, gradient in zip(weights, summed, strict=True):
            weight.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _batch_loss(
        self, images: Tensor, labels: Tensor, opponent: nn.Module | None, rng: torch.Generator
    ) -> Tensor:
        """Return the loss of a batch; store the moments of the teacher's layers for `_average`."""
        settings = self._settings
        view = self._augment(images, rng)
        with self._recording() as recorder:
            logits = self._teacher(view)
            self._seen = {} if recorder is None else recorder.read()
        loss = settings.one_hot * F.cross_entropy(logits, labels)
        if self._seen:
            moments = self._average.join(self._seen)
            loss = loss + settings.batchnorm * feature_statistics_loss(moments, self._stored, 1.0)
        if opponent is not None:
            seed = child_seed(rng.initial_seed(), "student")
            with preserve_state(opponent, seed, evaluate=True) as frozen_student:
                adversarial = masked_adversarial_loss(frozen_student(view), logits).mean()
            loss = loss + settings.adversarial * adversarial
        if self._contrast is not None:
            contrast = self._contrast.loss(images, view, child(rng, "contrast"))
            loss = loss + settings.contrast * contrast
        return loss

    @contextlib.contextmanager
    def _recording(self) -> Iterator[MomentsRecorder | None]:
        if not self._stored:
            yield None
            return
        with MomentsRecorder(self._teacher, self._stored) as recorder:
            yield recorder

    def _augment(self, images: Tensor, rng: torch.Generator) -> Tensor:
        limit, count = self._settings.shift, len(images)
        offsets = torch.randint(-limit, limit + 1, (2, count), generator=rng)
        flips = (torch.rand(count, generator=rng) < self._settings.flip).float()
        moves = (part.to(images.device, non_blocking=True) for part in (offsets, flips))
        return shift_and_flip(images, *moves)


def _fast(inner_steps: int, learning_rate: float, code_learning_rate: float) -> FastMeta:
    return FastMeta(
        inner_steps=inner_steps,
        learning_rate=learning_rate,
        code_learning_rate=code_learning_rate,
    )


PUBLISHED = {
    "fast-2": _fast(2, 5e-3, 0.015),
    "fast-5": _fast(5, 3e-3, 0.01),
    "fast-10": _fast(10, 2e-3, 0.01),
    "cmi": FastMeta(
        inner_steps=200,
        learning_rate=1e-3,
        code_learning_rate=1e-3,
        mode="fresh",
        batchnorm=1.0,
        adversarial=0.5,
        contrast=0.8,
        momentum=0.0,
    ),
    "nayer": FastMeta(
        generator=GeneratorPlan(head="sigmoid", latent=1000),
        inner_steps=30,
        learning_rate=4e-3,
        code_learning_rate=4e-3,
        mode="continue",
        renew_every=20,
        renew="whole",
        warm_up=200,
        noisy_layer=True,
    ),
}
