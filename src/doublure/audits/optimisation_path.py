"""The path of optimised images: a few of them, from start to end of the optimisation.

The optimisation is the source's own with all its iterations, but for six images instead of a whole
batch, so that statistics of the batch fit more narrowly. It costs as much as six images of a run.
Each image comes with the teacher's final class, and its confidence in that class at every point.
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
    """An optimisation path with the teacher's predictions.

    Args:
        named: the teacher's class of each final image.
        sure: the teacher's probability of that class, at each point of the path.
    """

    path: OptimisationPath
    named: Int64[Tensor, " images"]
    sure: Float[Tensor, "points images"]


def follow_optimisation(
    source: Source, teacher: Network, student: nn.Module | None, rng: torch.Generator
) -> FollowedOptimisation | None:
    """Return the path of a few images; None for a source without image optimisation.

    Args:
        student: the student for a competing source.
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
    """Return the path with a frozen teacher's predictions."""
    with torch.no_grad():
        answers = torch.stack([asked(images).softmax(-1) for images in path.images])
    named = answers[-1].argmax(-1)
    sure = answers.gather(-1, named.expand(len(answers), -1)[..., None])[..., 0]
    return FollowedOptimisation(path=path, named=named, sure=sure)
