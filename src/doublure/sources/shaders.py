"""Shader images: pictures drawn by seeded programs, so that no data is needed at all.

A transfer set of `num_programs` programs, as many as in the list the papers use, each of which
shows as many images as there are seeds. An image is a function of (program seed, image seed, size)
alone. Programs are written once as expressions (`shader_ir`) and painted by torch, on any device,
or by OpenGL; both paint the same picture.

Differs from the paper: its programs were found on the web, and an image is one of them at a random
time; ours are drawn from a grammar of families (`shader_families.FAMILIES`), and every image draws
its own constants besides its time. Augmentation, balancing by the teacher's answers and
adversarial perturbation are sources of their own that wrap this one.
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
    # Its own tables could not be obtained. These are the successor's (arXiv:2411.12817), for
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
# Drawn small, an image that is nearly constant or almost wholly saturated is drawn anew (the card
# asks for this); a program of which half the images are is replaced.
_PROBE_SIZE = (16, 16)
_SMALLEST_STD = 0.02
_LARGEST_SATURATED_SHARE = 0.95
_PROGRAM_TRIAL = 16
_MOST_ATTEMPTS = 100
# Choosing is a matter of overhead: the images of four turns cost little more than those of one.
_LAPS_AHEAD = 4


def worth_showing(images: Float[Tensor, "images channels height width"]) -> Bool[Tensor, " images"]:
    """Return which images are neither constant nor saturated all over."""
    flat = images.flatten(2)
    varied = flat.std(-1).mean(-1) >= _SMALLEST_STD
    saturated = ((flat <= 1 / 512) | (flat >= 511 / 512)).float().mean((1, 2))
    return varied & (saturated <= _LARGEST_SATURATED_SHARE)


def check_channels(context: StreamContext) -> None:
    """Raise unless shader images can be made to fit the network."""
    if context.contract.channels not in (1, 3):
        raise ValueError(
            f"shader images have 3 channels, or 1 (their luminance), but the network takes "
            f"{context.contract.channels}; use sources.Noise"
        )


def fitted(images: Float[Tensor, "images 3 height width"], context: StreamContext) -> Tensor:
    """Return the images on the site's device, with as many channels as its network takes."""
    images = images.to(context.device)
    if context.contract.channels == 3:
        return images
    return (images * images.new_tensor(_LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _probed(instances: Instances, probe: TorchPainter) -> Bool[Tensor, " images"]:
    """Return which instances are worth showing.

    Args:
        probe: a painter on the CPU. Whatever paints the images later, at whatever size, the
            decision is the same.
    """
    return worth_showing(probe.paint([instances], _PROBE_SIZE, 1))


class Showing(NamedTuple):
    """Images of one program: their seeds, and their times in seconds."""

    program: Program
    image_seeds: Int[Tensor, " images"]
    times: Float[Tensor, " images"]


class _Turn(NamedTuple):
    """Which of a set's programs is shown, and which of that program's images."""

    number: int
    places: range


def worthy_instances(
    program: Program,
    image_seeds: Int[Tensor, " images"],
    times: Float[Tensor, " images"],
    probe: TorchPainter,
) -> Instances:
    """Return for every seed the first of its images that shows something."""
    attempts = torch.zeros_like(image_seeds)
    instances = program.instances(image_seeds, times)
    empty = (~_probed(instances, probe)).nonzero().flatten()
    while len(empty):
        attempts[empty] += 1
        if int(attempts.max()) >= _MOST_ATTEMPTS:
            raise RuntimeError(
                f"shader program {program.seed} ({program.family}) gave {_MOST_ATTEMPTS} empty "
                f"images in a row; leave its family out of `families`, or take another seed"
            )
        again = program.instances(image_seeds[empty], times[empty], attempts[empty])
        instances.floats[:, empty], instances.ints[:, empty] = again.floats, again.ints
        empty = empty[~_probed(again, probe)]
    return instances


@dataclass(frozen=True, kw_only=True)
class Shaders:
    """Source: images of seeded shader programs; the default is the papers' number of programs.

    Args:
        num_programs: how many different formulas the set consists of.
        families: which families programs are drawn from, by name; None for those that stand for
            nothing in the world, so that the set owes nothing to what classes look like.
        supersample: a pixel is the mean of this many samples, squared.
        backend: "torch" paints on the site's device, "gl" through OpenGL.
        time_range: an image's time is uniform in it, in seconds.
        instances: how many images of one program stand next to each other in a batch. They are
            computed together: more are faster, above all on an accelerator, and less diverse.
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
                "families must name one at least, got (); None stands for the abstract"
            )
        if not 0 <= self.time_range[0] <= self.time_range[1]:
            raise ValueError(f"time_range must be two times in order, got {self.time_range}")

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "ShaderStream":
        """Return the stream of this set; the teacher is not asked."""
        check_channels(context)
        painter = GlPainter() if self.backend == "gl" else TorchPainter(context.device)
        return ShaderStream(
            settings=self, context=context, seed=rng.initial_seed(), painter=painter
        )


@dataclass(kw_only=True)
class ShaderStream:
    """A set of shader programs at work. It has no state: a step's images follow from the seed.

    Programs take turns: in every lap each shows a few images, in an order drawn for the lap. What
    is kept from step to step is only what would be computed again.
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
        """Return the images of `step`; neither the student nor earlier steps matter."""
        batch = [self._instances(turn) for turn in self._turns(step)]
        images = self.painter.paint(batch, self.context.contract.size, self.settings.supersample)
        return image_batch(fitted(images, self.context))

    def plan(self, step: int) -> list[Showing]:
        """Return what the images of `step` show: the record by which each can be painted again."""
        return [
            Showing(self._program(turn.number), *self._seeds_and_times(turn.number, turn.places))
            for turn in self._turns(step)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return {}: nothing is carried from one step to the next."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take {} back."""
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
        """Return the programs' numbers in the order of their turns."""
        if lap not in self._orders:
            rng = from_seed(child_seed(self.seed, "order", lap))
            order = torch.randperm(self.settings.num_programs, generator=rng).tolist()
            # A batch may end one lap and begin the next.
            self._orders = {lap: order, **{k: v for k, v in self._orders.items() if k == lap - 1}}
        return self._orders[lap]

    def _instances(self, turn: _Turn) -> Instances:
        """Return the images of a turn; those of the program's next turns are chosen with them."""
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
        # The hash of an attempt that is never made: times must not hang on the other parameters.
        share = uniforms(seeds, torch.full_like(seeds, -1), 1)[0]
        return seeds, low + (high - low) * share

    def _program(self, number: int) -> Program:
        if number not in self._programs:
            families = self.settings.families or ABSTRACT
            self._programs[number] = self._worthy_program(number, families[number % len(families)])
        return self._programs[number]

    def _worthy_program(self, number: int, family: str) -> Program:
        """Return the first program at this place of the list that mostly shows something."""
        for attempt in range(_MOST_ATTEMPTS):
            program = draw_program(self._seed_of("program", number, attempt), family)
            trial = torch.arange(_PROGRAM_TRIAL)
            instances = program.instances(trial, trial.to(torch.float64))
            if _probed(instances, self._probe).float().mean() > 0.5:
                return program
        raise RuntimeError(
            f"{_MOST_ATTEMPTS} programs in a row of the shader family '{family}' gave mostly empty "
            f"images; leave it out of `families`"
        )

    def _seed_of(self, *path: int | str) -> int:
        # The last bit keeps programs and images of the two splits apart, whatever the seed.
        return (child_seed(self.seed, *path) & ~1) | (self.context.split == "held_out")
