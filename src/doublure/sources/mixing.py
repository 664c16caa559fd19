"""Mixed images: mixup and cutmix of another source's images, the same for teacher and student.

mixup:   x = l x_i + (1 - l) x_j
cutmix:  x = x_j inside of a random box, x_i elsewhere; the box has the area 1 - l
with l ~ U(0, 1), or Beta(alpha, alpha), for each image, and j another image of the batch. Only
images are mixed, not the teacher's outputs: its output on x itself is the target (Beyer et al.,
arXiv:2106.05237). Labels, if the source has them, become probabilities l y_i + (1 - l) y_j; for
cutmix l is then the exact share of pixels outside of the box, after it is clipped to the image (Yun
et al., arXiv:1905.04899).
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
    """Return which pixels are in a box of area 1 - l around (x, y), relative to the sides."""
    side = (1 - kept).sqrt()

    def is_inside(n: int, centre: Tensor) -> Tensor:
        pixels = (torch.arange(n, device=kept.device) + 0.5) / n
        return (pixels - centre[:, None]).abs() < side[:, None] / 2

    return is_inside(size[0], y)[:, None, :, None] & is_inside(size[1], x)[:, None, None]


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
        source: source of the images.
        blend: "mixup" or "cutmix".
        alpha: parameter of the Beta distribution of l; None draws l uniformly from (0, 1).
        share: probability that an image is mixed.
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
            raise ValueError(f"mixing needs a batch_size of at least 2, got {context.batch_size}")
        inner = self.source.open(context, teacher, child(rng, "source"))
        numbers = child(rng, "mix", context.split, context.rank)
        return MixedStream(inner, self, context.contract.classes, numbers)


class MixedStream:
    """A stream with new random mixtures at each step."""

    def __init__(self, inner: Stream, settings: Mixed, classes: int, rng: torch.Generator) -> None:
        self._inner = inner
        self._settings = settings
        self._classes = classes
        self._rng = rng

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch = self._inner.draw(step, student)
        if batch.mask is not None or (batch.labels is not None and batch.labels.dim() > 2):
            raise ValueError("mixing cannot combine masks or label maps; use a source without them")
        rng = child(self._rng, step)
        images = batch.images
        partner = _partners(len(images), rng).to(images.device, non_blocking=True)
        weights = self._draw_weights(len(images), rng)
        place = torch.rand((2, len(images)), generator=rng)
        mixed: dict[int, tuple[Tensor, Tensor]] = {}
        for view in batch.views.values():
            if id(view) not in mixed:
                mixed[id(view)] = self._mix(view, view[partner], weights, place)
        views = {name: mixed[id(view)][0] for name, view in batch.views.items()}
        labels = batch.labels
        if labels is not None:
            labels = _soft(labels, self._classes)
            labels = mixup(labels, labels[partner], mixed[id(images)][1])
        # Teacher outputs from the source are dropped: they belong to the unmixed images.
        return dataclasses.replace(batch, views=views, labels=labels, teacher=None)

    def state_dict(self) -> dict[str, Any]:
        return {"source": self._inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state["source"])

    def _draw_weights(self, num_images: int, rng: torch.Generator) -> Float[Tensor, " batch"]:
        alpha = self._settings.alpha
        if alpha is None:
            weights = torch.rand(num_images, generator=rng)
        else:
            # torch samples Beta distributions from its global generator only: use numpy.
            beta = np.random.default_rng(child_seed(rng.initial_seed(), "beta"))
            weights = torch.from_numpy(beta.beta(alpha, alpha, num_images)).float()
        chosen = torch.rand(num_images, generator=rng) < self._settings.share
        return torch.where(chosen, weights, 1.0)

    def _mix(
        self,
        images: Float[Tensor, "batch channels height width"],
        partners: Float[Tensor, "batch channels height width"],
        weights: Float[Tensor, " batch"],
        place: Float[Tensor, "2 batch"],
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, " batch"]]:
        """Return the mixed images and the weight l of each."""
        weights, place = (part.to(images, non_blocking=True) for part in (weights, place))
        if self._settings.blend == "mixup":
            return mixup(images, partners, weights), weights
        inside = boxes(weights, place[0], place[1], (images.shape[2], images.shape[3]))
        return cutmix(images, partners, inside), 1 - inside.to(images.dtype).mean((1, 2, 3))


def _partners(num_images: int, rng: torch.Generator) -> Int64[Tensor, " batch"]:
    """Return a partner for each image: a random cycle, in which no image is its own partner."""
    cycle = torch.randperm(num_images, generator=rng)
    partner = torch.empty_like(cycle)
    partner[cycle] = cycle.roll(1)
    return partner


def _soft(labels: Tensor, classes: int) -> Float[Tensor, "batch classes"]:
    return labels if labels.dim() == 2 else F.one_hot(labels, classes).float()
