"""Adversarial boundary images: a share of each batch lies on the teacher's decision boundaries.

Every so many steps, images x that the teacher calls c are attacked towards t, uniform over the
other classes. The four images that an attack finds (`nets.boundary`: pre, post, deep_pre,
deep_post) join a ring, rounded to bytes; the ring's oldest leave it. In each batch a share of the
inner source's images gives way to images of the ring, drawn without replacement. An attack that
fails adds nothing; while the ring is short, more of the inner images stay. The student is not
asked.

With share s and k teacher passes per attack, a run costs s k / (4 reuse) passes per image of a
batch: on a CIFAR ResNet-20, with k = 12 (forward and backward counted apart), 0.4 by default and
1.5 where each image is shown once. On digits, students of the two cannot be told apart.

Put this source around augmentation and mixup: an image mixed after the attack is not adversarial
any more. It also evens out what augmentation has made uneven (see `sources.balanced`). Labels,
index and mask of the inner batch are dropped: attacked images could not keep them.

Frank, Davis: Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
Differs from the paper: share, reuse and ring are ours; the paper's could not be had.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive, share
from doublure.core.protocols import Batch, Source, Stream, StreamContext, image_batch
from doublure.core.seeding import child
from doublure.nets.boundary import BoundaryAttack, predicted_classes

CARD = Card(
    paper=(
        "Frank, Davis: Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL "
        "Shader Images, arXiv:2310.13782"
    ),
    needs=("logits", "gradients"),
)

# pre, post, deep_pre, deep_post
_IMAGES_PER_ATTACK = 4
_COUNTERS = ("images", "attacked", "found", "passes")


def other_classes(
    classes: Int[Tensor, " batch"], num_classes: int, rng: torch.Generator
) -> Int[Tensor, " batch"]:
    """Return for each a class uniform over the other ones."""
    drawn = torch.randint(num_classes - 1, classes.shape, generator=rng)
    drawn = drawn.to(classes.device, non_blocking=True)
    return drawn + (drawn >= classes)


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Source: another source with a share of each batch attacked.

    Args:
        source: whose images are attacked.
        share: of a batch that is attacked images.
        reuse: how often an attacked image is shown on average.
        every: steps between two rounds of attacks; fewer, larger rounds are faster.
        rounds: how many rounds the ring, and so each checkpoint, holds. With `reuse`, `every` and
            `rounds` all 1, each attacked image is shown once, in the step that made it.
        attack: how they are attacked.
    """

    source: Source
    share: float = 0.5
    reuse: float = 4.0
    every: int = 16
    rounds: int = 4
    attack: BoundaryAttack = field(default_factory=BoundaryAttack)

    def __post_init__(self) -> None:
        share("share", self.share)
        for name in ("share", "every", "rounds"):
            positive(name, getattr(self, name))
        if not self.reuse >= 1:
            raise ValueError(f"reuse must be at least 1, got {self.reuse}")
        if self.every * self.share > _IMAGES_PER_ATTACK * self.reuse:
            raise ValueError(
                f"every must be at most {_IMAGES_PER_ATTACK} * reuse / share = "
                f"{_IMAGES_PER_ATTACK * self.reuse / self.share:g}, got {self.every}: "
                "one batch cannot supply that many attacks; lower every or raise reuse"
            )

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "AdversarialStream":
        if teacher is None:
            raise ValueError(
                "an attack needs a teacher, but there is none; "
                "use the inner source without Adversarial"
            )
        if context.contract.classes < 2:
            raise ValueError(
                f"a boundary needs two classes, but the teacher has {context.contract.classes}; "
                "use the inner source without Adversarial"
            )
        inner = self.source.open(context, teacher, child(rng, "source"))
        return AdversarialStream(self, context, teacher, rng, inner)


class AdversarialStream:
    """Attacks at work, and the ring of what they found."""

    def __init__(
        self,
        settings: Adversarial,
        context: StreamContext,
        teacher: nn.Module,
        rng: torch.Generator,
        stream: Stream,
    ) -> None:
        self.stream = stream
        self._settings, self._context, self._teacher, self._rng = settings, context, teacher, rng
        self._shape = (context.contract.channels, *context.contract.size)
        self._ring = torch.empty((0, *self._shape), dtype=torch.uint8, device=context.device)
        self._cost = dict.fromkeys(_COUNTERS, 0)

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        batch = self.stream.draw(step, student)
        self._check(batch)
        images = batch.images.clone()
        rng = child(self._rng, "attack", self._context.split, self._context.rank, step)
        num_rows = max(1, round(self._settings.share * len(images)))
        if step % self._settings.every == 0:
            self._attack(images, num_rows, rng)
        rows = torch.randperm(len(images), generator=rng)[: min(num_rows, len(self._ring))]
        picks = torch.randperm(len(self._ring), generator=rng)[: len(rows)]
        # Nothing but a round of attacks waits for the device.
        here, there = (part.to(images.device, non_blocking=True) for part in (picks, rows))
        images[there] = self._ring[here].to(images.dtype) / 255
        self._cost["images"] += len(images)
        metrics = self._metrics() | {"attacked_share": torch.tensor(len(rows) / len(images))}
        return image_batch(
            images, size_factor=batch.size_factor, metrics={**batch.metrics, **metrics}
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "source": self.stream.state_dict(),
            "ring": self._ring.to("cpu", copy=True),
            "cost": dict(self._cost),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state["source"])
        self._ring = state["ring"].to(self._context.device, copy=True)
        self._cost = dict(state["cost"])

    def _check(self, batch: Batch) -> None:
        if batch.views["teacher"] is not batch.images:
            raise ValueError(
                "an attack needs student and teacher to see the same images; "
                "put the source that shows two views around Adversarial"
            )
        if tuple(batch.images.shape[1:]) != self._shape:
            raise ValueError(
                f"the ring holds images of shape {self._shape}, but the inner source drew "
                f"{tuple(batch.images.shape[1:])}; put what changes the size around Adversarial"
            )

    def _attack(self, images: Tensor, num_rows: int, rng: torch.Generator) -> None:
        """Attack some of a batch, and put what was found into the ring."""
        settings = self._settings
        count = round(settings.every * num_rows / (_IMAGES_PER_ATTACK * settings.reuse))
        count = min(max(1, count), len(images))
        chosen = torch.randperm(len(images), generator=rng)[:count]
        start = images[chosen.to(images.device, non_blocking=True)]
        classes = predicted_classes(self._teacher, start)
        targets = other_classes(classes, self._context.contract.classes, rng)
        found = settings.attack(self._teacher, start, targets)
        kinds = (found.pre, found.post, found.deep_pre, found.deep_post)
        fresh = torch.cat([kind[found.success] for kind in kinds])
        ring = torch.cat([self._ring, (fresh * 255).round().byte()])
        self._ring = ring[-settings.rounds * _IMAGES_PER_ATTACK * count :]
        self._cost["attacked"] += count
        self._cost["found"] += int(found.success.sum())
        self._cost["passes"] += found.num_passes + count

    def _metrics(self) -> dict[str, Tensor]:
        """Return the share of attacks that succeed, teacher passes per image, steps of a round."""
        success = self._cost["found"] / max(1, self._cost["attacked"])
        passes = self._cost["passes"] / self._cost["images"]
        told = {"attack_success": success, "attack_passes": passes, "round": self._settings.every}
        return {name: torch.tensor(float(value)) for name, value in told.items()}
