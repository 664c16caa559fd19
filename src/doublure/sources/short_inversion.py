"""Short inversion: another source's images, moved a few steps towards what the teacher was shown.

Inversion from noise takes hundreds to thousands of steps, most of them to make large shapes. Here
those are there already: a start u is an image of the inner source, mixed with another one of the
same draw and matched anew to the contract's mean and deviation (`sources.matched`),
    u = match((1 - w) u_1 + w u_2),    w ~ U(0, mixing).
Each start is given a label that it leans to already: labels in equal numbers a class are assigned
so that the teacher's log-probabilities of them sum to the most. The image is
    x = clip(u + sum_k enlarge(p_k), 0, 1)
where the p_k, zero at first, have 1/8, 1/4, 1/2 and the whole of the side (`sources.pyramid`).
With x' the images rolled and mirrored at random, the loss is
    a_f mean_l mean_c KL(N(stored) || N(x')) + a_ce CE(T(x'), y) - a_adv mean_b min(KL(T || S), 2)
l being the BatchNorm layers and c their channels (`nets.batchnorm_statistics`), T and S softmaxes
at a temperature, in nats. The last term is there where a student is.

A batch matches the statistics as a whole, and alone: there is no history, so that a draw is a
function of (seed, step, student), beside the state of the inner source.

A teacher without BatchNorm has stored nothing; there labels alone pull, and a warning says so.

The images' statistics and the competing student are those of DeepInversion, the divergence of
Gaussians that of Haroush et al. (arXiv:1912.01274). Differs from both: the starts, their labels,
the pyramid, and with them 15 iterations for 2000.
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
from doublure.sources.inversion import labels_in_turn, required
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

# In nats: less likely, a class is out of reach anyway, and an image without hope of any class must
# not decide where all others go.
_LEAST_LOG_PROBABILITY = -15.0
# In nats: an image on which the two differ by that much is hard enough.
_MOST_DISAGREEMENT = 2.0


def assigned_labels(
    log_probabilities: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]
) -> Int64[Tensor, " batch"]:
    """Return the labels in that order in which the images' log-probabilities sum to the most.

    Log-probabilities below -15 count as that.
    """
    from scipy import optimize  # takes a while; only who asks for it waits

    gains = log_probabilities.clamp(min=_LEAST_LOG_PROBABILITY)[:, labels]
    solve = optimize.linear_sum_assignment  # type: ignore[attr-defined]  # scipy's stub
    _, order = solve(gains.numpy(), maximize=True)
    return labels[torch.from_numpy(order)]


def disagreement(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the mean KL(T || S) in nats, of each image 2 at most."""
    nats = soft_target_loss(student_logits, teacher_logits, temperature) / temperature**2
    return nats.clamp(max=_MOST_DISAGREEMENT).mean()


def matched_shaders() -> Source:
    """Return shader images at the contract's mean and deviation: what is inverted by default."""
    return Matched(source=Shaders())


@dataclass(frozen=True, kw_only=True)
class ShortInversion:
    """Source: another one's images, inverted for a few steps. Default: matched shader images.

    Args:
        source: whose images it begins with; their labels are not looked at.
        iterations: of Adam on each batch.
        learning_rate: the largest, after two iterations; it falls to a tenth by a cosine.
        features: weight of the divergence from the teacher's BatchNorm statistics, if it has any.
        cross_entropy: weight of calling the images by their labels.
        adversarial: weight of teacher and student disagreeing, where there is a student.
        temperature: at which the two are compared.
        mixing: share at most that another image has in a start; 0 leaves starts as they are.
        precision: of the networks' arithmetic.
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
                f"mixing must lie in [0, 0.5], got {self.mixing}: with more than half, the other "
                "image would be the start"
            )

    @property
    def optimises(self) -> Literal["images"]:
        return "images"

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "ShortInversionStream":
        teacher = required(teacher)
        inner = self.source.open(context, teacher, child(rng, "source"))
        return ShortInversionStream(self, context, teacher, inner, rng)


class ShortInversionStream:
    """Inversion at work; the state is that of the inner stream."""

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
                "the teacher has no BatchNorm statistics to hold images to: labels alone pull at "
                "them, away from how they began",
                RuntimeWarning,
                stacklevel=3,
            )
        self._teacher = FeatureRecorder(teacher, (), settings.precision)

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return self.draw_followed(step, student, (), 0)[0]

    def draw_followed(
        self, step: int, student: nn.Module | None, shares: Sequence[float], num_images: int
    ) -> tuple[Batch, OptimisationPath]:
        """Return the batch of this step, and its first images after these shares of the search."""
        context = self._context
        rng = child(self._rng, "inversion", context.split, context.rank, step)
        start = self._mixed(self._stream.draw(step, student).images, child(rng, "mixing"))
        labels = self._assigned(start, step)
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
        # To choose the labels the teacher is asked once, then forth and back in each iteration.
        metrics = loss.metrics | {"teacher_passes": torch.tensor(1.0 + 2.0 * iterations)}
        path[iterations] = images[:num_images]
        batch = image_batch(images, labels=labels, metrics=metrics)
        return batch, OptimisationPath(images=tuple(path.values()), iterations=tuple(path))

    def state_dict(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stream.load_state_dict(state)

    def _mixed(self, images: Images, rng: torch.Generator) -> Images:
        """Return the images each mixed with another one of them, and matched anew."""
        contract = self._context.contract
        expected = (contract.channels, *contract.size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"inversion begins with images of shape {expected}, but the inner source drew "
                f"{tuple(images.shape[1:])}; put what changes the size around ShortInversion"
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
    def _assigned(self, images: Images, step: int) -> Int64[Tensor, " batch"]:
        """Return a label for each image, of the next ones in turn that which it leans to."""
        context, count = self._context, len(images)
        classes = context.contract.classes
        logits = self._teacher.record(images).output
        if not isinstance(logits, Tensor) or logits.shape != (count, classes):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"inversion needs {classes} logits per image, but the teacher answers {count} "
                f"images with {shape}; only classifiers can be inverted"
            )
        start = (step * context.world + context.rank) * count
        dealt = labels_in_turn(start, count, classes, child(self._rng, "labels", context.split))
        likely = logits.log_softmax(-1).cpu()
        return assigned_labels(likely, dealt).to(context.device)


class _Loss:
    """The loss of a batch, and what the networks said of it last.

    Use as a context manager: the student is borrowed meanwhile, and the teacher has hooks.
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
        """Return the student's logits, of which there must be as many as the teacher's."""
        assert self._opponent is not None
        answers = self._opponent.record(images).output
        if not isinstance(answers, Tensor) or answers.shape != shape:
            raise ValueError(
                "teacher and student cannot disagree about classes that only one of them knows; "
                "set adversarial to 0"
            )
        return answers
