"""The shared nouns: what flows through the house, and what a part must answer to be plugged in.

Nothing is inherited from the protocols here; a class that has the methods is a tenant.
Images are float tensors in [0, 1], NCHW, on the device, before any normalisation. What other
inputs are, the contract of their task says.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

Input = Tensor | Mapping[str, Tensor]
Output = Tensor | Mapping[str, Tensor] | Sequence[Tensor]
LossTerms = dict[str, Tensor]
Split = Literal["train", "held_out"]

# Facts of a batch: the share of a pool that is filled; steps between two rounds of a source.
POOL, ROUND = "pool", "round"


@runtime_checkable
class Contract(Protocol):
    """What a network takes, and what its outputs stand for; each task has a class of its own."""

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation per channel, of inputs that are one image; None for any other."""

    def blank(self, count: int, device: torch.device) -> Input:
        """Return a batch of valid inputs that say nothing: black images, empty sentences."""


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """What a network expects of an image and what its outputs stand for.

    Args:
        size: height and width in pixels.
        mean: per channel, of images in [0, 1].
        std: per channel, of images in [0, 1].
        classes: number of outputs.
        names: one name per class, or None where nobody knows them.
        interpolation: how an image of another size is resized, in Pillow's words.
        crop_pct: share of the resized image that the centre crop keeps.
        output: what the outputs are: "classes" is one logit a class, other tasks have words of
            their own.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    names: tuple[str, ...] | None = None
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    output: str = "classes"

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(
                    f"{name} must have one value per channel ({self.channels}), "
                    f"got {len(getattr(self, name))}"
                )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std must be positive, got {self.std}")
        if self.classes < 1:
            raise ValueError(f"classes must be positive, got {self.classes}")
        if self.names is not None and len(self.names) != self.classes:
            raise ValueError(
                f"names must have one entry per class ({self.classes}), got {len(self.names)}"
            )

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation per channel."""
        return self.mean, self.std

    def blank(self, count: int, device: torch.device) -> Tensor:
        """Return black images."""
        return torch.zeros(count, self.channels, *self.size, device=device)


AnyContract = TypeVar("AnyContract", bound=Contract, default=InputContract)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a network answered: its output and the layers that were tapped on the way."""

    output: Any
    features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one step is made of.

    Args:
        views: what each network sees, by "student" and "teacher"; one tensor in both places
            unless the task shows two.
        labels: int64 class indices (of text: one a token) or float class probabilities, where the
            source has them.
        mask: which elements count, where a task needs it; of text, the tokens that are no padding.
        index: which item of a fixed set each element is.
        teacher: the teacher's answer, where the source has asked already.
        size_factor: by how much this step's images are smaller than the contract says.
        metrics: figures about the batch worth logging, as 0-dimensional tensors.
    """

    views: Mapping[str, Any]
    labels: Tensor | None = None
    mask: Tensor | None = None
    index: Tensor | None = None
    teacher: Outputs | None = None
    size_factor: float = 1.0
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def images(self) -> Tensor:
        """The student's view, for parts that work on a single image tensor."""
        view = self.views["student"]
        if not isinstance(view, Tensor):
            raise TypeError(f"expected one image tensor in this batch, got {type(view).__name__}")
        return view

    def map_views(self, change: Callable[[Any], Any], **fields: Any) -> "Batch":
        """Return the batch with each distinct view changed, once, and other fields replaced."""
        distinct = {id(view): view for view in self.views.values()}
        made = {key: change(view) for key, view in distinct.items()}
        return replace(self, views={n: made[id(v)] for n, v in self.views.items()}, **fields)

    def counted(self, values: Tensor) -> Tensor:
        """Return the values of what counts: of text, those of all tokens, in one row."""
        return values if self.mask is None else values[self.mask]


def image_batch(images: Tensor, **fields: Any) -> Batch:
    """A batch in which student and teacher see the same images."""
    return Batch(views={"student": images, "teacher": images}, **fields)


@dataclass(frozen=True, kw_only=True)
class StreamContext(Generic[AnyContract]):
    """Where and for whom a source works; `StreamContext` alone is one of images.

    Args:
        batch_size: images, or sentences, per draw, on this process.
        steps: how many draws will be asked for.
        split: "held_out" must never show what "train" shows.
        rank: which process this is, of `world`; each draws its own part from the seed.
        scratch: a folder for state too large for a checkpoint, or None to keep it in memory.
        draft: only the shape of what is drawn matters; images that cost much may stay unfinished.
    """

    contract: AnyContract
    device: torch.device
    batch_size: int
    steps: int
    split: Split = "train"
    rank: int = 0
    world: int = 1
    scratch: Path | None = None
    draft: bool = False


@runtime_checkable
class State(Protocol):
    """All that the next step depends on; {} if nothing. Plain values and tensors only."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@runtime_checkable
class Stream(State, Protocol):
    """A source at work: `draw` is a function of (seed, step, state) only."""

    def draw(self, step: int, student: nn.Module | None) -> Batch: ...


@runtime_checkable
class Source(Protocol):
    """What the student is shown. `open` does at most one batch of work."""

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> Stream: ...


@runtime_checkable
class WrappingSource(Source, Protocol):
    """A source that changes what another one shows."""

    @property
    def source(self) -> Source: ...


@runtime_checkable
class CombiningSource(Source, Protocol):
    """A source that shows others side by side."""

    @property
    def sources(self) -> tuple[Source, ...]: ...


def innermost(source: Source) -> Source:
    """Return the source that makes the images: the first that optimises them, or wraps nothing.

    What an optimisation begins with is not what is shown. Of several side by side, the first one's.
    """
    if isinstance(source, OptimisedSource):
        return source
    if isinstance(source, WrappingSource):
        return innermost(source.source)
    if isinstance(source, CombiningSource):
        return innermost(source.sources[0])
    return source


def parts_of(source: Source) -> Iterator[Source]:
    """Yield a source and all that it shows or changes, from the outside on."""
    yield source
    if isinstance(source, WrappingSource):
        yield from parts_of(source.source)
    elif isinstance(source, CombiningSource):
        for part in source.sources:
            yield from parts_of(part)


@runtime_checkable
class OptimisedSource(Source, Protocol):
    """A source whose images are found by optimisation, often against the student itself.

    Held-out ones would cost as much as those of the run, and a generator that has seen the student
    has none: student and teacher are compared on a fixed set of shader images instead.
    """

    @property
    def optimises(self) -> Literal["images", "generator"]: ...


@runtime_checkable
class SourceOnDisk(Source, Protocol):
    """A source of what lies on disk; the manifest of a run holds the hashes of these files."""

    @property
    def paths(self) -> tuple[str, ...]: ...


@runtime_checkable
class JudgingSource(Source, Protocol):
    """A source that keeps items with labels apart, by which a student is scored."""

    def judging(self, contract: Any) -> Any | None:
        """Return them as data to score on; None where there are none."""


@dataclass(frozen=True, kw_only=True)
class OptimisationPath:
    """How a batch was found: the same images after ever more iterations of a search.

    Args:
        images: from the noise it began with to what it handed out.
        iterations: how many had been done.
    """

    images: tuple[Tensor, ...]
    iterations: tuple[int, ...]


@runtime_checkable
class OptimisingStream(Stream, Protocol):
    """A stream that optimises its images, and can show the way to a batch of them."""

    def draw_followed(
        self, step: int, student: nn.Module | None, shares: Sequence[float], num_images: int
    ) -> tuple[Batch, OptimisationPath]:
        """Return what `draw` does, and its first images after these shares of their search."""


@dataclass(frozen=True, kw_only=True)
class FeatureNames:
    """Which layers a loss wants to see, by dotted module path, on either side."""

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


@runtime_checkable
class Loss(State, Protocol):
    """An objective at work. Returns named, already weighted scalars; their sum is minimised."""

    @property
    def features(self) -> FeatureNames: ...
    def parameters(self) -> Iterable[nn.Parameter]: ...
    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch, /) -> LossTerms: ...


@runtime_checkable
class HasNotes(Protocol):
    """A loss with something to say before the first step: which layers it compares."""

    @property
    def notes(self) -> tuple[str, ...]: ...


@runtime_checkable
class HasMetrics(Protocol):
    """A loss with figures about its last step worth logging, as 0-dimensional tensors."""

    @property
    def metrics(self) -> Mapping[str, Tensor]: ...


def metrics_of(loss: Loss) -> Mapping[str, Tensor]:
    """Return what a loss measured in its last step; most measure nothing."""
    return loss.metrics if isinstance(loss, HasMetrics) else {}


@runtime_checkable
class Objective(Protocol):
    """What the student must match, where that takes connectors, taps or memory."""

    def open(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        example: Batch,
        rng: torch.Generator,
    ) -> Loss: ...


@runtime_checkable
class StatelessObjective(Protocol):
    """What the student must match, where a function of the two answers is enough."""

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, /) -> LossTerms: ...


@runtime_checkable
class Hook(State, Protocol):
    """A rule at work between optimizer steps. `finish` returns the network to keep."""

    def before_step(self, step: int, batch: Batch) -> None: ...
    def after_step(self, step: int) -> None: ...
    def finish(self) -> nn.Module: ...


@runtime_checkable
class GradientHook(Hook, Protocol):
    """A hook that sees the gradients of a step, before they are clipped and used."""

    def after_backward(self, step: int) -> None: ...


@runtime_checkable
class Rule(Protocol):
    """What happens to the student between two steps."""

    def open(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, rng: torch.Generator
    ) -> Hook: ...


@runtime_checkable
class RemarksOnTraining(Protocol):
    """A rule or transform with something to say of the training it is part of."""

    def remarks(self, student: nn.Module, *, steps: int, optimizer: str) -> tuple[str, ...]:
        """Return what a person should know before step 0, one sentence each.

        Args:
            optimizer: by its kind.
        """


@runtime_checkable
class Transform(Protocol):
    """Network in, network out; what came in stays. Batches carry a teacher's answers, if any."""

    def __call__(
        self, model: nn.Module, batches: Iterable[Batch] | None, rng: torch.Generator, /
    ) -> nn.Module: ...
