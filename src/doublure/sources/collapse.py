"""Collapse: detect a generator whose images no longer train the student.

Every so many draws some new images are checked. A generator has collapsed if, in several
consecutive checks, one of these holds:

    duplicates        most images have a near copy in the batch, within one step of 8 bits (root
                      mean square over pixels)
    one class         the entropy of the teacher's classes on the images, over its maximum, is near
                      zero
    empty agreement   student and teacher agree on the images (the mean absolute difference of their
                      logits is very small compared with the teacher's standard deviation), but on
                      noise the student is at chance: the two agree no more than independent
                      networks with the same class frequencies (Cohen's kappa)

The first time there is a warning, and the generator is re-initialised; the next time the run stops.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from doublure.core.checks import positive, share
from doublure.core.protocols import StreamContext
from doublure.core.seeding import child, child_seed
from doublure.nets.preserve_state import preserve_state
from doublure.objectives.logit_l1 import logit_l1_loss
from doublure.sources.balanced import relative_entropy
from doublure.sources.noise import gaussian_noise

# One step of 8 bits; the gap of logits and the kappa below which agreement is empty.
_STEP = 1 / 255
_SMALL_GAP = 0.01
_CHANCE = 0.05


class CollapseError(RuntimeError):
    """The generator has collapsed, and re-initialising it did not help."""


def duplicate_share(images: Float[Tensor, "batch channels height width"]) -> float:
    """Return the share of images that have a near copy among the others."""
    values = images.flatten(1)
    # Without matrix products, which are faster but inexact for the small distances needed here.
    distances = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances / values.shape[1] ** 0.5
    distances.fill_diagonal_(torch.inf)
    return float((distances.amin(1) <= _STEP).float().mean())


def cohens_kappa(
    one: Int[Tensor, " batch"], other: Int[Tensor, " batch"], num_classes: int
) -> float:
    """Return agreement beyond chance: 1 is full agreement, 0 that of independent predictions.

    NaN if both predict a single, identical class, for which chance agreement is 1 too.
    """
    shares = [x.bincount(minlength=num_classes).double() / len(x) for x in (one, other)]
    expected = float((shares[0] * shares[1]).sum())
    observed = float((one == other).double().mean())
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


@dataclass(frozen=True, kw_only=True)
class Look:
    """The measurements of one check; `gap` and `kappa` are None without a student.

    Args:
        entropy: entropy of the teacher's classes, over its maximum.
        doubt: mean entropy of the teacher's probabilities, over its maximum.
        duplicates: share of images with a near copy.
        commonest: share of the images in the most frequent class.
        gap: mean absolute logit difference of student and teacher, over the teacher's standard
            deviation.
        kappa: Cohen's kappa of their classes on noise.
    """

    entropy: float
    doubt: float
    duplicates: float
    commonest: float
    gap: float | None = None
    kappa: float | None = None


@dataclass(frozen=True, kw_only=True)
class CollapseCheck:
    """When a generator counts as collapsed, and how often it is restarted.

    Args:
        every: draws between two checks; 0 turns the check off.
        count: number of new images per check.
        patience: number of consecutive checks that must detect it.
        most_duplicates: largest accepted share of near copies.
        least_entropy: smallest accepted relative entropy of classes.
        restarts: number of re-initialisations before the run stops.
    """

    every: int = 250
    count: int = 128
    patience: int = 2
    most_duplicates: float = 0.5
    least_entropy: float = 0.02
    restarts: int = 1

    def __post_init__(self) -> None:
        for name in ("count", "patience"):
            positive(name, getattr(self, name))
        for name in ("most_duplicates", "least_entropy"):
            share(name, getattr(self, name))
        for name in ("every", "restarts"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def reason(self, look: Look) -> str | None:
        """Return the reason for a collapse, or None."""
        if look.duplicates > self.most_duplicates:
            return f"{look.duplicates:.0%} of its new images are duplicates"
        if look.entropy < self.least_entropy:
            return f"the teacher assigns {look.commonest:.0%} of its new images to one class"
        if look.gap is None or look.kappa is None:
            return None
        if look.gap < _SMALL_GAP and look.kappa < _CHANCE:  # False for NaN
            return "the loss is near zero on its images, but the student is at chance on noise"
        return None


def measure(
    images: Float[Tensor, "batch channels height width"],
    teacher: nn.Module,
    student: nn.Module | None,
    context: StreamContext,
    rng: torch.Generator,
) -> Look:
    """Return the measurements of a generator's images."""
    classes = context.contract.classes
    with torch.no_grad():
        logits = teacher(images).float()
        largest = max(torch.tensor(float(classes)).log().item(), 1e-12)
        doubt = torch.special.entr(logits.softmax(1)).flatten(1).sum(1).mean() / largest
        doubt = doubt / max(1, logits[0, 0].numel())
        predicted = logits.argmax(1).flatten()
        counts = predicted.bincount(minlength=classes).cpu()
        look = Look(
            entropy=relative_entropy(counts),
            doubt=float(doubt),
            duplicates=duplicate_share(images),
            commonest=float(counts.max() / counts.sum()),
        )
        if student is None:
            return look
        contract = context.contract
        noise = gaussian_noise(len(images), contract.size, contract.mean, contract.std, rng)
        noise = noise.to(images.device)
        with preserve_state(student, child_seed(rng.initial_seed(), "look"), evaluate=True) as view:
            student_logits = view(images).float()
            on_noise = view(noise).argmax(1).flatten()
        spread = float(logits.std().clamp(min=1e-12))
        gap = float(logit_l1_loss(student_logits, logits).mean()) / spread
        kappa = cohens_kappa(on_noise, teacher(noise).argmax(1).flatten(), classes)
    return Look(**{**asdict(look), "gap": gap, "kappa": kappa})


@dataclass
class CollapseWatch:
    """The state of a check, and how often the generator was re-initialised.

    Args:
        bad: number of consecutive checks that detected a collapse.
        last: the measurements of the last check.
    """

    check: CollapseCheck
    context: StreamContext
    teacher: nn.Module
    restarts: int = 0
    bad: int = 0
    last: dict[str, float] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        return self.check.every > 0 and step > 0 and step % self.check.every == 0

    def must_restart(
        self,
        step: int,
        make: Callable[[int, torch.Generator], Tensor],
        student: nn.Module | None,
        rng: torch.Generator,
        *,
        patience: int | None = None,
    ) -> bool:
        """Check, and return whether the generator must be re-initialised, with a warning.

        Args:
            make: returns the given number of new images.
            patience: replaces the check's own, for a generator that is already trained.

        Raises:
            CollapseError: no re-initialisation is left.
        """
        with torch.no_grad():
            images = make(self.check.count, child(rng, "images"))
        look = measure(images, self.teacher, student, self.context, child(rng, "noise"))
        names = ("entropy", "doubt", "duplicates")
        self.last = {name: getattr(look, name) for name in names}
        reason = self.check.reason(look)
        self.bad = 0 if reason is None else self.bad + 1
        if self.bad < (self.check.patience if patience is None else patience):
            return False
        if self.restarts == self.check.restarts:
            again = ", also after it was re-initialised" if self.restarts else ""
            raise CollapseError(
                f"the generator collapsed by draw {step}{again}: {reason}. Lower its learning "
                "rate, raise the batch size, or use a source without a generator, such as shaders"
            )
        self.bad, self.restarts = 0, self.restarts + 1
        warnings.warn(
            f"the generator collapsed by draw {step}: {reason}; it is re-initialised",
            RuntimeWarning,
            stacklevel=2,
        )
        return True

    def metrics(self) -> dict[str, Tensor]:
        """Return the last measurements and the number of re-initialisations."""
        values = {f"generator_{name}": value for name, value in self.last.items()}
        values["generator_restarts"] = float(self.restarts)
        return {name: torch.tensor(value) for name, value in values.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"restarts": self.restarts, "bad": self.bad, "last": dict(self.last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restarts, self.bad = state["restarts"], state["bad"]
        self.last = dict(state["last"])
