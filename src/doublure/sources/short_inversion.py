"""Short inversion: another source's images, moved a few steps towards the teacher's training data.

Inversion from noise needs hundreds to thousands of steps, most of them for large shapes. Here the
start already has them: a start u is an image of the inner source, mixed with another one of the
same draw and matched again to the contract's mean and standard deviation (`sources.matched`),
    u = match((1 - w) u_1 + w u_2),    w ~ U(0, mixing).
Each start gets a label that the teacher already finds likely: class-balanced labels are assigned so
that the sum of the teacher's log-probabilities is maximal. The image is
    x = clip(u + sum_k enlarge(p_k), 0, 1)
where the p_k start at zero and have 1/8, 1/4, 1/2 and 1 of the side (`sources.pyramid`). With x'
the images after random rolls and flips, the loss is
    a_f mean_l mean_c KL(N(stored) || N(x')) + a_ce CE(T(x'), y) - a_adv mean_b min(KL(T || S), 2)
with BatchNorm layers l and their channels c (`nets.batchnorm_statistics`), and T and S softmaxes at
a temperature, in nats. The last term needs a student.

The statistics are those of one batch, without history, so that a draw is a function of (seed, step,
student) and the state of the inner source.

A teacher without BatchNorm has no stored statistics: only the labels remain, with a warning.

Feature statistics and competing student are from DeepInversion, the divergence of Gaussians from
Haroush et al. (arXiv:1912.01274). Differs from both: the starts, their labels and the pyramid,
which allow 15 iterations instead of 2000.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import (
    Batch,
    InputContract,
    OptimisationPath,
    Source,
    Stream,
    StreamContext,
    image_batch,
)
from doublure.core.seeding import child, child_seed
from doublure.nets.batchnorm_statistics import (
    MomentsRecorder,
    Stored,
    batchnorm_kl,
    batchnorm_layers,
)
from doublure.nets.features import FeatureRecorder, architecture
from doublure.nets.folding import fold_batchnorm, fold_with_statistics
from doublure.nets.precision import Precision
from doublure.nets.preserve_state import preserve_state
from doublure.objectives.soft_targets import soft_target_loss
from doublure.sources.image_optimisation import Images
from doublure.sources.inversion import labels_in_turn, require_teacher
from doublure.sources.matched import Matched, match
from doublure.sources.pyramid import PyramidDescent
from doublure.sources.shaders import Shaders

CARD = Card(
    paper=(
        "Yin, Molchanov, Li, Alvarez, Mallya, Hoiem, Jha, Kautz: Dreaming to Distill: Data-free "
        "Knowledge Transfer via DeepInversion, arXiv:1912.08795"
    ),
    needs=("logits", "batchnorm", "gradients"),
)

# In nats. A class below this is out of reach; without the limit, one hopeless image would decide
# the assignment of all others.
_LEAST_LOG_PROBABILITY = -15.0
# In nats: at this disagreement an image is hard enough.
_MOST_DISAGREEMENT = 2.0


def assign_labels(
    log_probabilities: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]
) -> Int64[Tensor, " batch"]:
    """Return the permutation of the labels with the largest sum of log-probabilities.

    Log-probabilities are clipped at -15.
    """
    from scipy import optimize  # slow to import, so only here

    gains = log_probabilities.clamp(min=_LEAST_LOG_PROBABILITY)[:, labels]
    solve = optimize.linear_sum_assignment  # type: ignore[attr-defined]  # scipy's stub
    _, order = solve(gains.numpy(), maximize=True)
    return labels[torch.from_numpy(order)]


def disagreement(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the mean KL(T || S) in nats, clipped at 2 for each image."""
    nats = soft_target_loss(student_logits, teacher_logits, temperature) / temperature**2
    return nats.clamp(max=_MOST_DISAGREEMENT).mean()


def matched_shaders() -> Source:
    """Return shader images with the contract's mean and standard deviation: the default start."""
    return Matched(source=Shaders())


@dataclass(frozen=True, kw_only=True)
class ShortInversion:
    """Source: another source's images, briefly inverted. Default: matched shader images.

    Args:
        source: source of the starts; its labels are not used.
        iterations: Adam iterations for each batch.
        learning_rate: maximum, reached after two iterations; it decays to 1/10 by a cosine.
        features: weight of the divergence from the teacher's BatchNorm statistics, if it has any.
        cross_entropy: weight of the cross-entropy with the labels.
        adversarial: weight of the disagreement between teacher and student, if there is a student.
        temperature: softmax temperature of the disagreement.
        mixing: maximum weight of the second image in a start; 0 mixes nothing.
        precision: precision of the networks' forward and backward passes.
    """

    source: Source = field(default_factory=matched_shaders)
    iterations: int = 15
    learning_rate: float = 0.02
    features: float = 30.0
    cross_entropy: float = 0.05
    adversarial: float = 0.1
    temperature: float = 3.0
    mixing: float = 0.5
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        one_of("precision", self.precision, get_args(Precision))
        for name in ("iterations", "learning_rate", "temperature"):
            positive(name, getattr(self, name))
        for name in ("features", "cross_entropy", "adversarial"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.mixing <= 0.5:
            raise ValueError(
                f"mixing must be in [0, 0.5], got {self.mixing}: above 0.5 the second image would "
                f"be the start"
            )

    @property
    def optimises(self) -> Literal["images"]:
        return "images"

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "ShortInversionStream":
        teacher = require_teacher(teacher)
        inner = self.source.open(context, teacher, child(rng, "source"))
        return ShortInversionStream(self, context, teacher, inner, rng)


class ShortInversionStream:
    """Stream of short inversion; its state is that of the inner stream."""

    def __init__(
        self,
        settings: ShortInversion,
        context: StreamContext,
        teacher: nn.Module,
        stream: Stream,
        rng: torch.Generator,
    ) -> None:
        self._settings, self._context, self._rng, self._stream = settings, context, rng, stream
        self._mean = torch.tensor(context.contract.mean, device=context.device)
        self._std = torch.tensor(context.contract.std, device=context.device)
        self._stored: Mapping[str, Stored] = {}
        if batchnorm_layers(teacher):
            teacher, self._stored = fold_with_statistics(teacher, context.contract)
        else:
            warnings.warn(
                "the teacher has no BatchNorm statistics to match: only the labels guide the "
                "images",
                RuntimeWarning,
                stacklevel=3,
            )
        self._teacher = FeatureRecorder(teacher, (), settings.precision)

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return self.draw_followed(step, student, (), 0)[0]

    def draw_followed(
        self, step: int, student: nn.Module | None, shares: Sequence[float], num_images: int
    ) -> tuple[Batch, OptimisationPath]:
        """Return the batch of this step, and its first images at these shares of the iterations."""
        context = self._context
        rng = child(self._rng, "inversion", context.split, context.rank, step)
        start = self._mix(self._stream.draw(step, student).images, child(rng, "mixing"))
        labels = self._assign_labels(start, step)
        iterations = 1 if context.draft else self._settings.iterations
        looked_at = {round(share * iterations) for share in shares}
        path: dict[int, Images] = {}
        with self._loss(student, rng) as loss:
            rate = self._settings.learning_rate
            descent = PyramidDescent(start, iterations, rate, child(rng, "moves"))
            for i in range(iterations):
                if i in looked_at:
                    path[i] = descent.images().detach()[:num_images]
                descent.step(i, lambda images: loss(images, labels))
        images = descent.images().detach()
        if not loss.metrics["inversion_loss"].isfinite():
            raise ValueError(
                "the loss of the images became non-finite; lower learning_rate or the weights of "
                "its terms"
            )
        # One forward pass to assign labels, then a forward and a backward pass per iteration.
        metrics = loss.metrics | {"teacher_passes": torch.tensor(1.0 + 2.0 * iterations)}
        path[iterations] = images[:num_images]
        batch = image_batch(images, labels=labels, metrics=metrics)
        return batch, OptimisationPath(images=tuple(path.values()), iterations=tuple(path))

    def state_dict(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state)

    def _mix(self, images: Images, rng: torch.Generator) -> Images:
        """Return each image mixed with another one of the batch, and matched again."""
        contract = self._context.contract
        expected = (contract.channels, *contract.size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"inversion needs images of shape {expected}, but the inner source drew "
                f"{tuple(images.shape[1:])}; apply sources that change the size outside of "
                f"ShortInversion"
            )
        if not self._settings.mixing:
            return images
        count, device = len(images), images.device
        other = torch.randperm(count, generator=rng)
        share = self._settings.mixing * torch.rand(count, 1, 1, 1, generator=rng)
        numbers = Matched.spread * torch.randn(2, count, generator=rng)
        other, share, numbers = (
            part.to(device, non_blocking=True) for part in (other, share, numbers)
        )
        both = torch.lerp(images, images[other], share)
        return match(both, self._mean, self._std, numbers[0], numbers[1].exp())

    def _loss(self, student: nn.Module | None, rng: torch.Generator) -> "_Loss":
        seed = child_seed(rng.initial_seed(), "student")
        contract = self._context.contract
        return _Loss(self._settings, self._teacher, self._stored, student, seed, contract)

    @torch.no_grad()
    def _assign_labels(self, images: Images, step: int) -> Int64[Tensor, " batch"]:
        """Return a label for each image: the next labels, assigned to the likeliest images."""
        context, count = self._context, len(images)
        classes = context.contract.classes
        logits = self._teacher.record(images).output
        if not isinstance(logits, Tensor) or logits.shape != (count, classes):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"inversion needs {classes} logits per image, but the teacher's output for {count} "
                f"images has shape {shape}; only classifiers can be inverted"
            )
        start = (step * context.world + context.rank) * count
        dealt = labels_in_turn(start, count, classes, child(self._rng, "labels", context.split))
        likely = logits.log_softmax(-1).cpu()
        return assign_labels(likely, dealt).to(context.device)


class _Loss:
    """The loss of a batch, and the networks' latest outputs.

    A context manager: inside, the student is frozen in eval mode and the teacher has hooks.
    """

    def __init__(
        self,
        settings: ShortInversion,
        teacher: FeatureRecorder,
        stored: Mapping[str, Stored],
        student: nn.Module | None,
        seed: int,
        contract: InputContract,
    ) -> None:
        self._settings, self._teacher = settings, teacher
        self._stored = stored if settings.features else {}
        self._student = student if settings.adversarial else None
        self._seed, self._contract = seed, contract
        self._open = ExitStack()
        self.metrics: dict[str, Tensor] = {}

    def __enter__(self) -> "_Loss":
        body, enter = architecture(self._teacher.network), self._open.enter_context
        self._moments = enter(MomentsRecorder(body, self._stored))
        self._opponent: FeatureRecorder | None = None
        if self._student is not None:
            lent = enter(preserve_state(self._student, self._seed, evaluate=True))
            folded = fold_batchnorm(lent, self._contract).network
            self._opponent = FeatureRecorder(folded, (), self._settings.precision)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def __call__(self, images: Images, labels: Int64[Tensor, " batch"]) -> Float[Tensor, ""]:
        settings = self._settings
        logits = self._teacher.record(images).output
        loss = settings.cross_entropy * F.cross_entropy(logits, labels)
        metrics = {"recognised": (logits.argmax(-1) == labels).float().mean()}
        if self._stored:
            metrics["feature_divergence"] = batchnorm_kl(self._moments.read(), self._stored)
            loss = loss + settings.features * metrics["feature_divergence"]
        if self._opponent is not None:
            answers = self._answers(images, logits.shape)
            metrics["disagreement"] = disagreement(answers, logits, settings.temperature)
            loss = loss - settings.adversarial * metrics["disagreement"]
        metrics["inversion_loss"] = loss
        self.metrics = {name: value.detach() for name, value in metrics.items()}
        return loss

    def _answers(self, images: Images, shape: torch.Size) -> Float[Tensor, "batch classes"]:
        """Return the student's logits, as many as the teacher's."""
        assert self._opponent is not None
        answers = self._opponent.record(images).output
        if not isinstance(answers, Tensor) or answers.shape != shape:
            raise ValueError(
                "teacher and student have different classes, so their disagreement is undefined; "
                "set adversarial to 0"
            )
        return answers
