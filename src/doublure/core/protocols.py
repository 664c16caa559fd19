"""Shared types: the data that parts exchange, and the protocols of plug-in parts.

Nothing is inherited from the protocols here; a class only needs the methods. Images are float
tensors in [0, 1], NCHW, on the device, before any normalisation. The contract of a task defines its
other inputs.
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

# Metrics of a batch: filled share of a pool; steps between two rounds of a source.
POOL, ROUND = "pool", "round"


@runtime_checkable
class Contract(Protocol):
    """Meaning of a network's inputs and outputs; each task has its own class."""

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation per channel for image inputs; None for others."""

    def blank(self, count: int, device: torch.device) -> Input:
        """Return a batch of valid but empty inputs: black images, empty sentences."""


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """The expected images of a network and the meaning of its outputs.

    Args:
        size: height and width in pixels.
        mean: mean of each channel, for images in [0, 1].
        std: standard deviation of each channel, for images in [0, 1].
        classes: number of outputs.
        names: one name per class, or None if unknown.
        interpolation: how an image of another size is resized, in Pillow's words.
        crop_pct: share of the resized image that the centre crop keeps.
        output: kind of the outputs: "classes" is one logit per class; other tasks have their own
            kinds.
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
        """Mean and standard deviation per channel."""
        return self.mean, self.std

    def blank(self, count: int, device: torch.device) -> Tensor:
        """Return black images."""
        return torch.zeros(count, self.channels, *self.size, device=device)


AnyContract = TypeVar("AnyContract", bound=Contract, default=InputContract)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Outputs of a network: its output and the features of tapped layers."""

    output: Any
    features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The data of one step.

    Args:
        views: inputs by network, "student" and "teacher"; the same tensor unless the task has two
            views.
        labels: int64 class indices (for text: one per token) or float class probabilities, if the
            source has them.
        mask: elements that count, if a task needs it; for text, the tokens that are not padding.
        index: index of each element in a fixed set.
        teacher: the teacher's outputs, if the source has computed them.
        size_factor: factor by which this step's images are smaller than the contract's size.
        metrics: metrics of the batch for the log, as 0-dimensional tensors.
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
        """Return the batch with each distinct view transformed once, and other fields replaced."""
        distinct = {id(view): view for view in self.views.values()}
        made = {key: change(view) for key, view in distinct.items()}
        return replace(self, views={n: made[id(v)] for n, v in self.views.items()}, **fields)

    def counted(self, values: Tensor) -> Tensor:
        """Return the values of elements that count, in one dimension: for text, of all tokens."""
        return values if self.mask is None else values[self.mask]


def image_batch(images: Tensor, **fields: Any) -> Batch:
    """A batch with the same images for student and teacher."""
    return Batch(views={"student": images, "teacher": images}, **fields)


@dataclass(frozen=True, kw_only=True)
class StreamContext(Generic[AnyContract]):
    """The setting in which a source is opened; plain `StreamContext` is one of images.

    Args:
        batch_size: number of images or sentences per draw, on this process.
        steps: number of draws in the run.
        split: "held_out" must never have items of "train".
        rank: number of this process, of `world`; each draws its own part from the seed.
        scratch: a folder for state too large for a checkpoint, or None to keep it in memory.
        draft: only shapes of draws matter (a dry run); expensive images may stay unfinished.
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
    """The state on which the next step depends, in plain values and tensors; {} if none."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@runtime_checkable
class Stream(State, Protocol):
    """An open source: `draw` is a function of (seed, step, state) only."""

    def draw(self, step: int, student: nn.Module | None) -> Batch: ...


@runtime_checkable
class Source(Protocol):
    """The transfer set of the student. `open` does at most one batch of work."""

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> Stream: ...


@runtime_checkable
class WrappingSource(Source, Protocol):
    """A source that changes the batches of another one."""

    @property
    def source(self) -> Source: ...


@runtime_checkable
class ResizingSource(Source, Protocol):
    """A source that shows the student images of another size than the contract says."""

    @property
    def resizes(self) -> bool: ...


@runtime_checkable
class CombiningSource(Source, Protocol):
    """A source that combines several others in a batch."""

    @property
    def sources(self) -> tuple[Source, ...]: ...


def innermost(source: Source) -> Source:
    """Return the source of the images: the first that optimises them, or wraps nothing.

    The start of an optimisation is not part of the transfer set. Of combined sources, the first.
    """
    if isinstance(source, OptimisedSource):
        return source
    if isinstance(source, WrappingSource):
        return innermost(source.source)
    if isinstance(source, CombiningSource):
        return innermost(source.sources[0])
    return source


def parts_of(source: Source) -> Iterator[Source]:
    """Yield a source and all sources inside it, from the outside in."""
    yield source
    if isinstance(source, WrappingSource):
        yield from parts_of(source.source)
    elif isinstance(source, CombiningSource):
        for part in source.sources:
            yield from parts_of(part)


@runtime_checkable
class OptimisedSource(Source, Protocol):
    """A source that optimises its images, often against the student itself.

    Held-out images would cost as much as those of the run, and a generator trained against the
    student has none: student and teacher are compared on a fixed set of shader images instead.
    """

    @property
    def optimises(self) -> Literal["images", "generator"]: ...


@runtime_checkable
class SourceOnDisk(Source, Protocol):
    """A source that reads files; the manifest of a run has their hashes."""

    @property
    def paths(self) -> tuple[str, ...]: ...


@runtime_checkable
class EvaluationSource(Source, Protocol):
    """A source that holds out labelled items, on which a student is evaluated."""

    def evaluation_data(self, contract: Any) -> Any | None:
        """Return them as evaluation data; None if there are none."""


@dataclass(frozen=True, kw_only=True)
class OptimisationPath:
    """The optimisation of a batch: the same images after increasing numbers of iterations.

    Args:
        images: from the start to the final images.
        iterations: number of iterations for each of them.
    """

    images: tuple[Tensor, ...]
    iterations: tuple[int, ...]


@runtime_checkable
class OptimisingStream(Stream, Protocol):
    """A stream that optimises its images, and can return intermediate images."""

    def draw_followed(
        self, step: int, student: nn.Module | None, shares: Sequence[float], num_images: int
    ) -> tuple[Batch, OptimisationPath]:
        """Return the batch of `draw`, and its first images at these shares of the iterations."""


@dataclass(frozen=True, kw_only=True)
class FeatureNames:
    """The layers whose features a loss needs, by dotted path, of student and teacher."""

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


@runtime_checkable
class Loss(State, Protocol):
    """An open objective. Returns named, already weighted scalars; their sum is minimised."""

    @property
    def features(self) -> FeatureNames: ...
    def parameters(self) -> Iterable[nn.Parameter]: ...
    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch, /) -> LossTerms: ...


@runtime_checkable
class HasNotes(Protocol):
    """A loss with notes before the first step, for example on the layers it compares."""

    @property
    def notes(self) -> tuple[str, ...]: ...


@runtime_checkable
class HasMetrics(Protocol):
    """A loss or hook with metrics of its last step, as 0-dimensional tensors."""

    @property
    def metrics(self) -> Mapping[str, Tensor]: ...


def metrics_of(part: object) -> Mapping[str, Tensor]:
    """Return the metrics of a loss or hook in its last step; most have none."""
    return part.metrics if isinstance(part, HasMetrics) else {}


@runtime_checkable
class Objective(Protocol):
    """What the student must match; for objectives with connectors, features or memory."""

    def open(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        example: Batch,
        rng: torch.Generator,
    ) -> Loss: ...


@runtime_checkable
class StatelessObjective(Protocol):
    """What the student must match, as a function of the two outputs."""

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, /) -> LossTerms: ...


@runtime_checkable
class Hook(State, Protocol):
    """An open rule, called between optimizer steps. `finish` returns the final network."""

    def before_step(self, step: int, batch: Batch) -> None: ...
    def after_step(self, step: int) -> None: ...
    def finish(self) -> nn.Module: ...


@runtime_checkable
class GradientHook(Hook, Protocol):
    """A hook that gets the gradients of a step, before they are clipped and applied."""

    def after_backward(self, step: int) -> None: ...


@runtime_checkable
class Rule(Protocol):
    """Changes of the student between two steps."""

    def open(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, rng: torch.Generator
    ) -> Hook: ...


@runtime_checkable
class Transform(Protocol):
    """From network to network, without change of the input. Batches may have teacher outputs."""

    def __call__(
        self, model: nn.Module, batches: Iterable[Batch] | None, rng: torch.Generator, /
    ) -> nn.Module: ...
