"""Collapse: does a generator still make images that can teach?

Every so many draws some fresh images are looked at. A generator has collapsed if, in several looks
in a row, one of these holds:

    duplicates      most images have a twin no farther than one step of eight bits (root mean
                    square over pixels)
    one class       the entropy of the classes that the teacher gives them, over its largest value,
                    is near zero
    empty victory   student and teacher agree on them (the mean absolute difference of their logits
                    is a trifle of the teacher's spread), but elsewhere the student is at chance:
                    on noise the two agree no more than two strangers with their class frequencies
                    would (Cohen's kappa)

The first time there is a warning, and the generator is started afresh; the next time the run stops.
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

_STEP = 1 / 255
_TRIFLE = 0.01
_CHANCE = 0.05


class CollapseError(RuntimeError):
    """A generator makes nothing that could teach, even after a fresh start."""


def duplicate_share(images: Float[Tensor, "batch channels height width"]) -> float:
    """Return the share of images that have a twin among the others."""
    values = images.flatten(1)
    # The faster way by matrix products loses the small distances that count here.
    apart = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart / values.shape[1] ** 0.5
    apart.fill_diagonal_(torch.inf)
    return float((apart.amin(1) <= _STEP).float().mean())


def cohens_kappa(
    one: Int[Tensor, " batch"], other: Int[Tensor, " batch"], num_classes: int
) -> float:
    """Return agreement beyond chance: 1 is full, 0 that of strangers with these frequencies.

    Where both only ever name one class nothing can be told, and it is NaN.
    """
    shares = [x.bincount(minlength=num_classes).double() / len(x) for x in (one, other)]
    expected = float((shares[0] * shares[1]).sum())
    observed = float((one == other).double().mean())
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look found; `gap` and `kappa` are None where no student was there.

    Args:
        entropy: of the classes the teacher names, over its largest value.
        doubt: mean entropy of the teacher's answers, over its largest value.
        duplicates: share of images with a twin.
        commonest: share of the images in the class named most.
        gap: mean absolute logit difference of student and teacher, over the teacher's spread.
        kappa: of their classes on noise.
    """

    entropy: float
    doubt: float
    duplicates: float
    commonest: float
    gap: float | None = None
    kappa: float | None = None


@dataclass(frozen=True, kw_only=True)
class CollapseCheck:
    """When a generator counts as collapsed, and what then.

    Args:
        every: draws between two looks; 0 never looks.
        count: fresh images a look.
        patience: looks in a row that must find it.
        most_duplicates: a larger share of twins is collapse.
        least_entropy: less relative entropy of classes is collapse.
        restarts: fresh starts before the run stops.
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
        """Return what is wrong, in words, or None."""
        if look.duplicates > self.most_duplicates:
            return f"{look.duplicates:.0%} of its fresh images are duplicates"
        if look.entropy < self.least_entropy:
            return f"the teacher calls {look.commonest:.0%} of its fresh images one class"
        if look.gap is None or look.kappa is None:
            return None
        if look.gap < _TRIFLE and look.kappa < _CHANCE:  # never true of NaN
            return "the loss is zero on its images while the student is at chance elsewhere"
        return None


def look_at(
    images: Float[Tensor, "batch channels height width"],
    teacher: nn.Module,
    student: nn.Module | None,
    context: StreamContext,
    rng: torch.Generator,
) -> Look:
    """Return what a generator's images are like, in the teacher's and the student's eyes."""
    classes = context.contract.classes
    with torch.no_grad():
        answer = teacher(images).float()
        largest = max(torch.tensor(float(classes)).log().item(), 1e-12)
        doubt = torch.special.entr(answer.softmax(1)).flatten(1).sum(1).mean() / largest
        doubt = doubt / max(1, answer[0, 0].numel())
        named = answer.argmax(1).flatten()
        counts = named.bincount(minlength=classes).cpu()
        found = Look(
            entropy=relative_entropy(counts),
            doubt=float(doubt),
            duplicates=duplicate_share(images),
            commonest=float(counts.max() / counts.sum()),
        )
        if student is None:
            return found
        contract = context.contract
        noise = gaussian_noise(len(images), contract.size, contract.mean, contract.std, rng)
        noise = noise.to(images.device)
        with preserve_state(
            student, child_seed(rng.initial_seed(), "look"), evaluate=True
        ) as asked:
            guess = asked(images).float()
            elsewhere = asked(noise).argmax(1).flatten()
        spread = float(answer.std().clamp(min=1e-12))
        gap = float(logit_l1_loss(guess, answer).mean()) / spread
        kappa = cohens_kappa(elsewhere, teacher(noise).argmax(1).flatten(), classes)
    return Look(**{**asdict(found), "gap": gap, "kappa": kappa})


@dataclass
class CollapseWatch:
    """A check at work: what it has seen, and how often the generator was started afresh.

    Args:
        bad: looks in a row that found it collapsed.
        last: the figures of the last look.
    """

    check: CollapseCheck
    context: StreamContext
    teacher: nn.Module
    restarts: int = 0
    bad: int = 0
    last: dict[str, float] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        return self.check.every > 0 and step > 0 and step % self.check.every == 0

    def tell(
        self,
        step: int,
        make: Callable[[int, torch.Generator], Tensor],
        student: nn.Module | None,
        rng: torch.Generator,
        *,
        patience: int | None = None,
    ) -> bool:
        """Look, and return whether the generator must be started afresh; that is warned of.

        Args:
            make: returns that many fresh images.
            patience: in place of the check's own, for a generator that is done learning.

        Raises:
            CollapseError: it had its fresh starts.
        """
        with torch.no_grad():
            images = make(self.check.count, child(rng, "images"))
        look = look_at(images, self.teacher, student, self.context, child(rng, "noise"))
        names = ("entropy", "doubt", "duplicates")
        self.last = {name: getattr(look, name) for name in names}
        reason = self.check.reason(look)
        self.bad = 0 if reason is None else self.bad + 1
        if self.bad < (self.check.patience if patience is None else patience):
            return False
        if self.restarts == self.check.restarts:
            again = ", again after a fresh start" if self.restarts else ""
            raise CollapseError(
                f"the generator collapsed by draw {step}{again}: {reason}. Lower its learning "
                "rate, raise the batch size, or use a source that learns nothing, such as shaders"
            )
        self.bad, self.restarts = 0, self.restarts + 1
        warnings.warn(
            f"the generator collapsed by draw {step}: {reason}; it is started afresh",
            RuntimeWarning,
            stacklevel=2,
        )
        return True

    def metrics(self) -> dict[str, Tensor]:
        """Return the last look's figures and the number of fresh starts."""
        told = {f"generator_{name}": value for name, value in self.last.items()}
        told["generator_restarts"] = float(self.restarts)
        return {name: torch.tensor(value) for name, value in told.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"restarts": self.restarts, "bad": self.bad, "last": dict(self.last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restarts, self.bad = state["restarts"], state["bad"]
        self.last = dict(state["last"])
