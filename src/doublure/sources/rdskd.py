"""RDSKD: a generator trained once on the teacher alone, then used to train the student.

Teacher T, generator G, codes z ~ N(0, 1), a batch x = G(z) in two halves x1, x2 (sec. 2):

    authenticity        L_oh = CE(T(x), argmax T(x)) = -log max p         confident predictions
    class diversity     L_ie = sum_k pbar_k log pbar_k = -H(pbar)         balanced classes
    sample diversity    L_ds = || p(x2) - p(x1) ||_F / || x2 - x1 ||_F    different images, equal
                                                                          predictions
    L_G = exp(L_oh - r_oh) + exp(L_ie - r_ie) + L_ds

p is the softmax of T, pbar its mean over the batch, x in normalised values. The references r are
values of the two losses at an earlier batch. As grad exp(L - r) = exp(L - r) grad L, a term above
its reference gets a larger weight and a term below it a smaller one, without weights to tune.

G is trained before the student's first step, then frozen in eval mode.

Han, Park, Wang, Liu: arXiv:2011.03749.
Differs from the paper: exponents are clipped to [-5, 5], as weights; L_ds to 1e4; BatchNorm's eps
is torch's, not 0.8; short runs train G for fewer steps, at the paper's ratio; a collapse is
detected.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import ROUND, Batch, StreamContext, image_batch
from doublure.core.seeding import child
from doublure.nets.generators import GeneratorPlan
from doublure.sources.collapse import CollapseCheck, CollapseWatch

CARD = Card(
    paper=(
        "Han, Park, Wang, Liu: Robustness and Diversity Seeking Data-Free Knowledge Distillation, "
        "arXiv:2011.03749"
    ),
    needs=("logits", "gradients"),
)

Combination = Literal["exponential", "sum"]
Reference = Literal["epoch", "average", "previous", "least"]
Pairing = Literal["halves", "class"]

_LARGEST_EXPONENT = 5.0
_LARGEST_RATIO = 1e4
_TINY = 1e-12
# Decay of the reference "average".
_DECAY = 0.9


def authenticity_loss(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Return the cross-entropy of each prediction with its own top class, in nats."""
    return F.cross_entropy(logits, logits.argmax(1), reduction="none")


def class_diversity_loss(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """Return minus the entropy of the mean prediction, in nats: between -log(classes) and 0."""
    mean = logits.softmax(1).mean(0)
    return (mean * mean.clamp(min=_TINY).log()).sum()


def sample_diversity_loss(
    images: Float[Tensor, "batch channels height width"],
    answers: Float[Tensor, "batch classes"],
    pairing: Pairing,
) -> Float[Tensor, ""]:
    """Return the distance of predictions over the distance of images, for a batch's two halves.

    Args:
        answers: predicted class probabilities.
        pairing: "halves" uses the norms of the whole halves; "class" pairs each image of the first
            half with one of the second with the same top class, and averages over the pairs.
    """
    half = len(images) // 2
    pixels, told = images[: 2 * half].flatten(1), answers[: 2 * half]
    one, other = torch.arange(half), torch.arange(half, 2 * half)
    if pairing == "halves":
        pixels, told = (pixels[other] - pixels[one])[None], (told[other] - told[one])[None]
        return _ratio(told.flatten(1), pixels.flatten(1))
    classes = told.argmax(1)
    same = classes[:half, None] == classes[None, half:]
    paired = same.any(1)
    one, other = paired.nonzero().squeeze(1), half + same.int().argmax(1)[paired]
    if not len(one):
        return 0.0 * told.sum()
    return _ratio(told[other] - told[one], pixels[other] - pixels[one])


def exponential_penalty(
    loss: Float[Tensor, ""], reference: Float[Tensor, ""], weight: float
) -> Float[Tensor, ""]:
    """Return exp(w (L - r)): with its gradient at L = r, more above, less below.

    Exponents are clipped to [-5, 5]; beyond, the gradient is that of L times the clipped weight.
    """
    exponent = weight * (loss - reference)
    pull = exponent.detach().clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT).exp()
    return pull + pull * (exponent - exponent.detach())


@dataclass(frozen=True, kw_only=True)
class RDSKD:
    """Source: a generator trained on the teacher's predictions, then frozen. Default: the paper's.

    Args:
        generator: architecture of the generator.
        generator_steps: number of training steps, all before the student's first step.
        draws_per_step: minimum number of draws per training step; a short run trains the generator
            for fewer steps.
        generator_batch: batch size of these steps.
        learning_rate: learning rate of the generator's Adam.
        combination: "exponential", or "sum" of the terms.
        authenticity: weight of L_oh.
        class_diversity: weight of L_ie.
        sample_diversity: weight of L_ds.
        reference: the references of the exponents: the values of the second step of each "epoch",
            an "average" over steps, those of the "previous" step, or the "least" so far.
        epoch: number of steps in an epoch.
        pairing: pairs of images in L_ds, by "halves" or by "class".
        collapse: criterion for a collapsed generator.
    """

    generator: GeneratorPlan = field(default_factory=lambda: GeneratorPlan(latent=1000))
    generator_steps: int = 2400
    draws_per_step: int = 50
    generator_batch: int = 512
    learning_rate: float = 1e-3
    combination: Combination = "exponential"
    authenticity: float = 1.0
    class_diversity: float = 1.0
    sample_diversity: float = 1.0
    reference: Reference = "epoch"
    epoch: int = 120
    pairing: Pairing = "halves"
    collapse: CollapseCheck = field(default_factory=CollapseCheck)

    def __post_init__(self) -> None:
        for name in ("generator_steps", "draws_per_step", "learning_rate"):
            positive(name, getattr(self, name))
        for name in ("authenticity", "class_diversity", "sample_diversity"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name, least in (("generator_batch", 4), ("epoch", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name, kinds in (
            ("combination", Combination),
            ("reference", Reference),
            ("pairing", Pairing),
        ):
            one_of(name, getattr(self, name), get_args(kinds))

    @property
    def optimises(self) -> Literal["generator"]:
        return "generator"

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "RDSKDStream":
        if teacher is None:
            raise ValueError(
                "the generator needs a teacher, but there is none; use a source that needs none, "
                "such as shaders"
            )
        return RDSKDStream(self, context, teacher, rng)

    def loss(self, terms: dict[str, Tensor], references: dict[str, Tensor]) -> Tensor:
        """Return the generator's loss from its three terms."""
        whole = self.sample_diversity * terms["sample_diversity"]
        for name in ("authenticity", "class_diversity"):
            weight = getattr(self, name)
            if self.combination == "sum":
                whole = whole + weight * terms[name]
            elif weight:
                whole = whole + exponential_penalty(terms[name], references[name], weight)
        return whole

    def update_references(
        self, step: int, terms: dict[str, Tensor], references: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the references after a step, counted from 0."""
        now = {name: terms[name].detach() for name in references}
        if self.reference == "previous":
            return now
        if step == 0 and self.reference in ("average", "least"):
            return now
        if self.reference == "average":
            return {n: torch.lerp(now[n], old, _DECAY) for n, old in references.items()}
        if self.reference == "least":
            return {n: torch.minimum(now[n], old) for n, old in references.items()}
        return now if step % self.epoch == 1 else references


class RDSKDStream:
    """Stream of generated images: the first draw trains the generator, which is then frozen."""

    def __init__(
        self, settings: RDSKD, context: StreamContext, teacher: nn.Module, rng: torch.Generator
    ) -> None:
        self._settings, self._context, self._teacher, self._rng = settings, context, teacher, rng
        self._watch = CollapseWatch(settings.collapse, context, teacher)
        # With longer training the images become more confident and less like data, which only a
        # long student training compensates.
        affordable = 1 if context.draft else max(1, context.steps // settings.draws_per_step)
        self._steps = min(settings.generator_steps, affordable)
        self._per_channel = [
            torch.tensor(value, device=context.device).view(1, -1, 1, 1)
            for value in (context.contract.mean, context.contract.std)
        ]
        self._generator = self._begin()
        self._trained = False
        self._told: dict[str, Tensor] = {}

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        passes = 0.0
        if not self._trained:
            passes = self._train_until_sound() / self._context.batch_size
        rng = child(self._rng, self._context.split, self._context.rank, step)
        images = self._make(self._context.batch_size, rng)
        # For a budget: a step of the generator is shared out among the draws it is for.
        shared = {ROUND: torch.tensor(float(self._settings.draws_per_step))}
        metrics = self._told | {"teacher_passes": torch.tensor(passes)} | shared
        return image_batch(images, metrics=metrics | self._watch.metrics())

    def state_dict(self) -> dict[str, Any]:
        state = {
            "generator": self._generator.state_dict(),
            "trained": self._trained,
            "told": self._told,
            "watch": self._watch.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)
        self._generator.load_state_dict(state["generator"])
        self._trained, self._told = state["trained"], state["told"]
        self._watch.load_state_dict(state["watch"])

    def _begin(self) -> Any:
        # With several processes, each trains the same generator and draws its own codes.
        numbers = child(self._rng, "generator", self._watch.restarts)
        return self._settings.generator.make(self._context.contract, numbers).to(
            self._context.device
        )

    @torch.no_grad()
    def _make(self, num_images: int, rng: torch.Generator) -> Tensor:
        generator = self._generator.eval()
        images: Tensor = generator(generator.draw_codes(num_images, rng))
        return images

    def _train_until_sound(self) -> float:
        """Train the generator, again if it collapses; return the number of teacher passes."""
        passes = 0.0
        while not self._trained:
            self._train(child(self._rng, "training", self._watch.restarts))
            passes += 2.0 * self._steps * self._settings.generator_batch
            looks = self._settings.collapse.every > 0 and not self._context.draft
            rng = child(self._rng, "look", self._watch.restarts)
            if looks and self._watch.must_restart(0, self._make, None, rng, patience=1):
                self._generator = self._begin()
            else:
                self._trained = True
        return passes

    def _train(self, rng: torch.Generator) -> None:
        settings, generator = self._settings, self._generator.train()
        parameters = list(generator.parameters())
        optimizer = torch.optim.Adam(parameters, settings.learning_rate)
        zero = torch.zeros((), device=self._context.device)
        references = {"authenticity": zero, "class_diversity": zero}
        terms: dict[str, Tensor] = {}
        for step in range(self._steps):
            codes = generator.draw_codes(settings.generator_batch, child(rng, step))
            terms = self._terms(generator(codes))
            gradients = torch.autograd.grad(settings.loss(terms, references), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            references = settings.update_references(step, terms, references)
        optimizer.zero_grad(set_to_none=True)
        self._told = {name: value.detach() for name, value in terms.items()}

    def _terms(self, images: Tensor) -> dict[str, Tensor]:
        """Return the three loss terms of a batch."""
        logits = self._teacher(images)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise TypeError(
                "the generator needs one vector of logits per image, but this teacher has other "
                "outputs; use --method dfad"
            )
        mean, std = self._per_channel
        return {
            "authenticity": authenticity_loss(logits.float()).mean(),
            "class_diversity": class_diversity_loss(logits.float()),
            "sample_diversity": sample_diversity_loss(
                (images - mean) / std, logits.float().softmax(1), self._settings.pairing
            ),
        }


def _ratio(changed: Tensor, apart: Tensor) -> Tensor:
    """Return the mean ratio of the row norms."""
    lengths = [torch.linalg.vector_norm(rows, dim=1) for rows in (changed, apart)]
    ratio: Tensor = lengths[0] / lengths[1].clamp(min=_TINY)
    return ratio.clamp(max=_LARGEST_RATIO).mean()


PUBLISHED = {
    "cifar": RDSKD(),
    "svhn": RDSKD(),
    "mnist": RDSKD(generator=GeneratorPlan(latent=100)),
}
