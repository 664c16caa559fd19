"""How optimised images come about: a few of them, from the noise to what the search hands out.

The search is the source's own, at all its iterations, but of six images together where a run
searches for whole batches: what is asked of a batch as a whole, six images answer more narrowly.
It costs what six images of a run cost. Each is told with what the teacher names it in the end, and
how sure the teacher was of that on the way.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from doublure.core.protocols import (
    OptimisationPath,
    OptimisedSource,
    OptimisingStream,
    Source,
    StreamContext,
)
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze

SHARES = (0.0, 0.01, 0.05, 0.2, 0.5)
IMAGES = 6


@dataclass(frozen=True, kw_only=True)
class FollowedOptimisation:
    """A search, and what the teacher said of it.

    Args:
        named: the class the teacher names each image in the end.
        sure: the teacher's probability of that class, at each point of the path.
    """

    path: OptimisationPath
    named: Int64[Tensor, " images"]
    sure: Float[Tensor, "points images"]


def follow_optimisation(
    source: Source, teacher: Network, student: nn.Module | None, rng: torch.Generator
) -> FollowedOptimisation | None:
    """Return the way to a few images; None for a source that does not search for images.

    Args:
        student: whom a source that competes competes with.
    """
    if not isinstance(source, OptimisedSource) or source.optimises != "images":
        return None
    context = StreamContext(
        contract=teacher.contract, device=device_of(teacher), batch_size=IMAGES, steps=1
    )
    asked = freeze(teacher)
    stream = source.open(context, asked, rng)
    if not isinstance(stream, OptimisingStream):
        return None
    return answered(stream.draw_followed(0, student, SHARES, IMAGES)[1], asked)


def answered(path: OptimisationPath, asked: nn.Module) -> FollowedOptimisation:
    """Return the path with what a frozen teacher says of its images."""
    with torch.no_grad():
        answers = torch.stack([asked(images).softmax(-1) for images in path.images])
    named = answers[-1].argmax(-1)
    sure = answers.gather(-1, named.expand(len(answers), -1)[..., None])[..., 0]
    return FollowedOptimisation(path=path, named=named, sure=sure)
