"""Shader images: pictures drawn by seeded programs; no data is needed.

A transfer set of `num_programs` programs (by default as many as in the papers' list), each with any
number of images. An image is a function of (program seed, image seed, size) alone. Programs are
expressions (`shaders.expressions`), rendered by torch on any device or by OpenGL, with the same
result.

Differs from the paper: its programs come from the web, and an image is one of them at a random
time; ours come from a grammar of families (`shaders.families.FAMILIES`), and each image has random
constants and a random time. Augmentation, balancing by the teacher's predictions and adversarial
perturbation are separate sources that wrap this one.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch, StreamContext, image_batch
from doublure.core.seeding import child_seed, from_seed
from doublure.shaders.families import ABSTRACT, FAMILIES, draw_program
from doublure.shaders.opengl import GlPainter
from doublure.shaders.program import Instances, Program
from doublure.shaders.sketch import uniforms
from doublure.shaders.torch_backend import TorchPainter

CARD = Card(
    paper=(
        "Frank, Davis: Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL "
        "Shader Images, arXiv:2310.13782"
    ),
    needs=("nothing",),
    # Its own tables were not available. These are from the successor (arXiv:2411.12817), for
    # ResNet-50 -> ResNet-18 on OpenGL images, and on the original data.
    reported={
        "successor, CIFAR-10, shaders": 94.02,
        "successor, CIFAR-10, original data": 95.98,
        "successor, CIFAR-100, shaders": 73.27,
        "successor, CIFAR-100, original data": 78.35,
    },
)

Backend = Literal["torch", "gl"]
# ITU-R BT.601.
_LUMINANCE = (0.299, 0.587, 0.114)
# A nearly constant or saturated image, judged at this small size, is replaced by a new one (as in
# the paper); a program with at least half such images is replaced.
_PROBE_SIZE = (16, 16)
_SMALLEST_STD = 0.02
_LARGEST_SATURATED_SHARE = 0.95
_PROGRAM_TRIAL = 16
_MOST_ATTEMPTS = 100
# The cost of a choice is mostly overhead: four turns cost little more than one.
_LAPS_AHEAD = 4


def worth_showing(images: Float[Tensor, "images channels height width"]) -> Bool[Tensor, " images"]:
    """Return True for each image that is neither nearly constant nor nearly saturated."""
    flat = images.flatten(2)
    varied = flat.std(-1).mean(-1) >= _SMALLEST_STD
    saturated = ((flat <= 1 / 512) | (flat >= 511 / 512)).float().mean((1, 2))
    return varied & (saturated <= _LARGEST_SATURATED_SHARE)


def check_channels(context: StreamContext) -> None:
    """Raise unless the network takes 1 or 3 channels."""
    if context.contract.channels not in (1, 3):
        raise ValueError(
            f"shader images have 3 channels, or 1 (their luminance), but the network takes "
            f"{context.contract.channels}; use sources.Noise"
        )


def fitted(images: Float[Tensor, "images 3 height width"], context: StreamContext) -> Tensor:
    """Return the images on the context's device, with the network's number of channels."""
    images = images.to(context.device)
    if context.contract.channels == 3:
        return images
    return (images * images.new_tensor(_LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _probed(instances: Instances, probe: TorchPainter) -> Bool[Tensor, " images"]:
    """Return True for each instance whose image is usable.

    Args:
        probe: a painter on the CPU, so that the decision does not depend on the backend or the
            size.
    """
    return worth_showing(probe.paint([instances], _PROBE_SIZE, 1))


class Showing(NamedTuple):
    """Images of one program: seeds, and times in seconds."""

    program: Program
    image_seeds: Int[Tensor, " images"]
    times: Float[Tensor, " images"]


class _Turn(NamedTuple):
    """Number of a program, and indices of its images."""

    number: int
    places: range


def worthy_instances(
    program: Program,
    image_seeds: Int[Tensor, " images"],
    times: Float[Tensor, " images"],
    probe: TorchPainter,
) -> Instances:
    """Return the first usable instance of each seed."""
    attempts = torch.zeros_like(image_seeds)
    instances = program.instances(image_seeds, times)
    empty = (~_probed(instances, probe)).nonzero().flatten()
    while len(empty):
        attempts[empty] += 1
        if int(attempts.max()) >= _MOST_ATTEMPTS:
            raise RuntimeError(
                f"shader program {program.seed} ({program.family}) gave {_MOST_ATTEMPTS} empty "
                f"images in a row; remove its family from `families`, or use another seed"
            )
        again = program.instances(image_seeds[empty], times[empty], attempts[empty])
        instances.floats[:, empty], instances.ints[:, empty] = again.floats, again.ints
        empty = empty[~_probed(again, probe)]
    return instances


@dataclass(frozen=True, kw_only=True)
class Shaders:
    """Source: images of seeded shader programs. Default: the papers' number of programs.

    Args:
        num_programs: number of different programs.
        families: names of the program families; None uses the abstract ones, which depict no
            objects, so that the set does not depend on what classes look like.
        supersample: a pixel is the mean of n x n samples.
        backend: "torch" renders on the context's device, "gl" uses OpenGL.
        time_range: range of the uniform random time of an image, in seconds.
        instances: number of consecutive images of one program in a batch, computed together: more
            are faster, especially on a GPU, but less diverse.
    """

    num_programs: int = 1089
    families: tuple[str, ...] | None = None
    supersample: int = 2
    backend: Backend = "torch"
    time_range: tuple[float, float] = (0.1, 10.0)
    instances: int = 8

    def __post_init__(self) -> None:
        for name in ("num_programs", "supersample", "instances"):
            positive(name, getattr(self, name))
        one_of("backend", self.backend, ("torch", "gl"))
        for family in self.families or ():
            one_of("shader family", family, FAMILIES)
        if self.families == ():
            raise ValueError(
                "families is empty; name at least one, or use None for the abstract ones"
            )
        if not 0 <= self.time_range[0] <= self.time_range[1]:
            raise ValueError(f"time_range must be two increasing times, got {self.time_range}")

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "ShaderStream":
        """Return the stream; the teacher is not used."""
        check_channels(context)
        painter = GlPainter() if self.backend == "gl" else TorchPainter(context.device)
        return ShaderStream(
            settings=self, context=context, seed=rng.initial_seed(), painter=painter
        )


@dataclass(kw_only=True)
class ShaderStream:
    """Stream of shader images, without state: the images of a step depend on the seed only.

    In each lap every program draws a few images, in a random order of programs. The attributes are
    caches.
    """

    settings: Shaders
    context: StreamContext
    seed: int
    painter: TorchPainter | GlPainter
    _programs: dict[int, Program] = field(default_factory=dict)
    _orders: dict[int, list[int]] = field(default_factory=dict)
    _ahead: dict[int, tuple[int, Instances]] = field(default_factory=dict)
    _probe: TorchPainter = field(default_factory=lambda: TorchPainter(torch.device("cpu")))

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        """Return the images of `step`, independent of the student and of earlier steps."""
        batch = [self._instances(turn) for turn in self._turns(step)]
        images = self.painter.paint(batch, self.context.contract.size, self.settings.supersample)
        return image_batch(fitted(images, self.context))

    def plan(self, step: int) -> list[Showing]:
        """Return programs, seeds and times of the images of `step`, enough to render them again."""
        return [
            Showing(self._program(turn.number), *self._seeds_and_times(turn.number, turn.places))
            for turn in self._turns(step)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return {}: the stream has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Accept only {}."""
        if state:
            raise ValueError(f"a stream of shader images has no state, got {sorted(state)}")

    def _turns(self, step: int) -> list[_Turn]:
        count, per_program = self.context.batch_size, self.settings.instances
        num_turns = math.ceil(count / per_program)
        first = (step * self.context.world + self.context.rank) * num_turns
        turns = []
        for turn in range(num_turns):
            lap, place = divmod(first + turn, self.settings.num_programs)
            start, left = lap * per_program, count - turn * per_program
            turns.append(
                _Turn(self._order(lap)[place], range(start, start + min(per_program, left)))
            )
        return turns

    def _order(self, lap: int) -> list[int]:
        """Return the numbers of the programs in the order of this lap."""
        if lap not in self._orders:
            rng = from_seed(child_seed(self.seed, "order", lap))
            order = torch.randperm(self.settings.num_programs, generator=rng).tolist()
            # A batch may end one lap and begin the next.
            self._orders = {lap: order, **{k: v for k, v in self._orders.items() if k == lap - 1}}
        return self._orders[lap]

    def _instances(self, turn: _Turn) -> Instances:
        """Return the images of a turn; those of the next turns are cached with them."""
        ahead = self.settings.instances * _LAPS_AHEAD
        block, first = divmod(turn.places.start, ahead)
        if self._ahead.get(turn.number, (None,))[0] != block:
            places = range(block * ahead, (block + 1) * ahead)
            showing = Showing(
                self._program(turn.number), *self._seeds_and_times(turn.number, places)
            )
            self._ahead[turn.number] = (block, worthy_instances(*showing, self._probe))
        return self._ahead[turn.number][1].part(first, first + len(turn.places))

    def _seeds_and_times(self, number: int, places: range) -> tuple[Tensor, Tensor]:
        seeds = torch.tensor([self._seed_of("image", number, place) for place in places])
        low, high = self.settings.time_range
        # Attempt -1 never occurs elsewhere: times must not depend on the other parameters.
        share = uniforms(seeds, torch.full_like(seeds, -1), 1)[0]
        return seeds, low + (high - low) * share

    def _program(self, number: int) -> Program:
        if number not in self._programs:
            families = self.settings.families or ABSTRACT
            self._programs[number] = self._worthy_program(number, families[number % len(families)])
        return self._programs[number]

    def _worthy_program(self, number: int, family: str) -> Program:
        """Return the first program for this number with mostly usable images."""
        for attempt in range(_MOST_ATTEMPTS):
            program = draw_program(self._seed_of("program", number, attempt), family)
            trial = torch.arange(_PROGRAM_TRIAL)
            instances = program.instances(trial, trial.to(torch.float64))
            if _probed(instances, self._probe).float().mean() > 0.5:
                return program
        raise RuntimeError(
            f"{_MOST_ATTEMPTS} programs in a row of the shader family '{family}' gave mostly empty "
            f"images; remove it from `families`"
        )

    def _seed_of(self, *path: int | str) -> int:
        # The last bit separates the programs and images of the two splits for every seed.
        return (child_seed(self.seed, *path) & ~1) | (self.context.split == "held_out")
