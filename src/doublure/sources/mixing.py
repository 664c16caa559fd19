"""Mixed images: mixup and cutmix of another source's images, seen alike by teacher and student.

mixup:   x = l x_i + (1 - l) x_j
cutmix:  x = x_j inside of a random box, x_i elsewhere; the box has the area 1 - l
with l ~ U(0, 1), or Beta(alpha, alpha), for each image, and j another image of the batch. Without
labels nothing else is mixed: the teacher is asked about x itself, so x is one more point at which
to match it (Beyer et al., arXiv:2106.05237). Labels, where a source has them, become probabilities
l y_i + (1 - l) y_j; for cutmix l is then the share that the box, cut to the image and to whole
pixels, leaves (Yun et al., arXiv:1905.04899).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from doublure.core import checks
from doublure.core.cards import Card
from doublure.core.protocols import Batch, Source, Stream, StreamContext
from doublure.core.seeding import child, child_seed

CARD = Card(
    paper=(
        "Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond Empirical Risk Minimization, "
        "arXiv:1710.09412"
    ),
    needs=("nothing",),
    reported={"CIFAR-10, PreAct ResNet-18, error without": 5.6, "the same with mixup": 4.2},
)

Blend = Literal["mixup", "cutmix"]


def mixup(
    values: Float[Tensor, "batch ..."],
    partners: Float[Tensor, "batch ..."],
    kept: Float[Tensor, " batch"],
) -> Float[Tensor, "batch ..."]:
    """Return l values + (1 - l) partners, with one l for each sample."""
    weight = kept.view(-1, *(1,) * (values.dim() - 1))
    # Not lerp: this form is exact at both ends, l = 0 and l = 1.
    return weight * values + (1 - weight) * partners


def boxes(
    kept: Float[Tensor, " batch"],
    x: Float[Tensor, " batch"],
    y: Float[Tensor, " batch"],
    size: tuple[int, int],
) -> Bool[Tensor, "batch 1 height width"]:
    """Return which pixels lie in a box of area 1 - l around (x, y), in shares of the sides."""
    side = (1 - kept).sqrt()

    def covered(n: int, centre: Tensor) -> Tensor:
        pixels = (torch.arange(n, device=kept.device) + 0.5) / n
        return (pixels - centre[:, None]).abs() < side[:, None] / 2

    return covered(size[0], y)[:, None, :, None] & covered(size[1], x)[:, None, None]


def cutmix(
    images: Float[Tensor, "batch channels height width"],
    partners: Float[Tensor, "batch channels height width"],
    inside: Bool[Tensor, "batch 1 height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Return the images with the partners' pixels inside the boxes."""
    return torch.where(inside, partners, images)


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Source: another source's images, mixed.

    Args:
        source: whose images are mixed.
        blend: "mixup" or "cutmix".
        alpha: of the Beta distribution of l; None draws l evenly from (0, 1).
        share: of the images that are mixed.
    """

    source: Source
    blend: Blend = "mixup"
    alpha: float | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of("blend", self.blend, get_args(Blend))
        if self.alpha is not None:
            checks.positive("alpha", self.alpha)
        checks.share("share", self.share)

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> Stream:
        if context.batch_size < 2:
            raise ValueError(f"mixing needs a batch_size of 2 or more, got {context.batch_size}")
        inner = self.source.open(context, teacher, child(rng, "source"))
        numbers = child(rng, "mix", context.split, context.rank)
        return MixedStream(inner, self, context.contract.classes, numbers)


class MixedStream:
    """A stream whose images are mixed afresh at each step."""

    def __init__(self, inner: Stream, settings: Mixed, classes: int, rng: torch.Generator) -> None:
        self._inner = inner
        self._settings = settings
        self._classes = classes
        self._rng = rng

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch = self._inner.draw(step, student)
        if batch.mask is not None or (batch.labels is not None and batch.labels.dim() > 2):
            raise ValueError("mixing has no rule for masks or label maps; mix a source without")
        rng = child(self._rng, step)
        images = batch.images
        partner = _partners(len(images), rng).to(images.device, non_blocking=True)
        kept = self._draw_kept(len(images), rng)
        place = torch.rand((2, len(images)), generator=rng)
        changed: dict[int, tuple[Tensor, Tensor]] = {}
        for view in batch.views.values():
            if id(view) not in changed:
                changed[id(view)] = self._mix(view, view[partner], kept, place)
        views = {name: changed[id(view)][0] for name, view in batch.views.items()}
        labels = batch.labels
        if labels is not None:
            labels = _soft(labels, self._classes)
            labels = mixup(labels, labels[partner], changed[id(images)][1])
        # An answer that the source had asked for was about the images before.
        return dataclasses.replace(batch, views=views, labels=labels, teacher=None)

    def state_dict(self) -> dict[str, Any]:
        return {"source": self._inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state["source"])

    def _draw_kept(self, num_images: int, rng: torch.Generator) -> Float[Tensor, " batch"]:
        alpha = self._settings.alpha
        if alpha is None:
            kept = torch.rand(num_images, generator=rng)
        else:
            # torch draws a Beta from its global generator only.
            beta = np.random.default_rng(child_seed(rng.initial_seed(), "beta"))
            kept = torch.from_numpy(beta.beta(alpha, alpha, num_images)).float()
        chosen = torch.rand(num_images, generator=rng) < self._settings.share
        return torch.where(chosen, kept, 1.0)

    def _mix(
        self,
        images: Float[Tensor, "batch channels height width"],
        partners: Float[Tensor, "batch channels height width"],
        kept: Float[Tensor, " batch"],
        place: Float[Tensor, "2 batch"],
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, " batch"]]:
        """Return the mixed images and the share that each kept of its first."""
        kept, place = (part.to(images, non_blocking=True) for part in (kept, place))
        if self._settings.blend == "mixup":
            return mixup(images, partners, kept), kept
        inside = boxes(kept, place[0], place[1], (images.shape[2], images.shape[3]))
        return cutmix(images, partners, inside), 1 - inside.to(images.dtype).mean((1, 2, 3))


def _partners(num_images: int, rng: torch.Generator) -> Int64[Tensor, " batch"]:
    """Return another image for each: one random cycle through all of them."""
    cycle = torch.randperm(num_images, generator=rng)
    partner = torch.empty_like(cycle)
    partner[cycle] = cycle.roll(1)
    return partner


def _soft(labels: Tensor, classes: int) -> Float[Tensor, "batch classes"]:
    return labels if labels.dim() == 2 else F.one_hot(labels, classes).float()
