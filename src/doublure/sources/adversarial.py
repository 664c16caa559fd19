"""Adversarial boundary images: a share of each batch lies on the teacher's decision boundaries.

Every `every` steps, images x with teacher class c are attacked towards a class t, uniform over the
other classes. The four images of a successful attack (`nets.boundary`: pre, post, deep_pre,
deep_post) are rounded to bytes and added to a ring buffer, which drops its oldest images. In each
batch a share of the inner source's images is replaced by images of the ring, drawn without
replacement. A failed attack adds nothing; while the ring has few images, fewer are replaced. The
attack does not use the student.

With share s and k teacher passes per attack, a run costs s k / (4 reuse) passes per image of a
batch: on a CIFAR ResNet-20, with k = 12 (forward and backward pass counted separately), 0.4 by
default and 1.5 if each image is used once. On digits, the students of the two do not differ.

Wrap augmentation and mixup in this source: an image mixed after the attack is no longer
adversarial. It also compensates for class imbalance from augmentation (see `sources.balanced`).
Labels, index and mask of the inner batch are dropped: they are not valid for attacked images.

Frank, Davis: Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
Differs from the paper: share, reuse and ring are ours; the paper's values were not available.
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
    """Return for each element a class that is uniform over the other classes."""
    # Draw from C - 1 values, then skip the element's own class.
    drawn = torch.randint(num_classes - 1, classes.shape, generator=rng)
    drawn = drawn.to(classes.device, non_blocking=True)
    return drawn + (drawn >= classes)


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Source: another source, with a share of each batch replaced by attacked images.

    Args:
        source: source of the images to attack.
        share: share of attacked images in a batch.
        reuse: mean number of times that an attacked image is used.
        every: steps between two rounds of attacks; fewer, larger rounds are faster.
        rounds: number of rounds that the ring, and each checkpoint, holds. If `reuse`, `every` and
            `rounds` are all 1, each attacked image is used once, in the step of its attack.
        attack: settings of the attack.
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
                "Adversarial needs a teacher to attack, but there is none; "
                "use the inner source without Adversarial"
            )
        if context.contract.classes < 2:
            raise ValueError(
                f"Adversarial needs at least two classes, but the teacher has "
                f"{context.contract.classes}; "
                "use the inner source without Adversarial"
            )
        inner = self.source.open(context, teacher, child(rng, "source"))
        return AdversarialStream(self, context, teacher, rng, inner)


class AdversarialStream:
    """The stream of `Adversarial`: runs the attacks and holds the ring of attacked images."""

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
        # Non-blocking copies: only a round of attacks waits for the device.
        ring_index, batch_index = (
            part.to(images.device, non_blocking=True) for part in (picks, rows)
        )
        images[batch_index] = self._ring[ring_index].to(images.dtype) / 255
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
                "Adversarial needs the same images for student and teacher; "
                "wrap Adversarial in the source that makes two views"
            )
        if tuple(batch.images.shape[1:]) != self._shape:
            raise ValueError(
                f"the ring holds images of shape {self._shape}, but the inner source drew "
                f"{tuple(batch.images.shape[1:])}; change the size outside of Adversarial"
            )

    def _attack(self, images: Tensor, num_rows: int, rng: torch.Generator) -> None:
        """Attack some images of a batch, and add the successful ones to the ring."""
        settings = self._settings
        count = round(settings.every * num_rows / (_IMAGES_PER_ATTACK * settings.reuse))
        count = min(max(1, count), len(images))
        chosen = torch.randperm(len(images), generator=rng)[:count]
        start = images[chosen.to(images.device, non_blocking=True)]
        classes = predicted_classes(self._teacher, start)
        targets = other_classes(classes, self._context.contract.classes, rng)
        attacked = settings.attack(self._teacher, start, targets)
        kinds = (attacked.pre, attacked.post, attacked.deep_pre, attacked.deep_post)
        fresh = torch.cat([kind[attacked.success] for kind in kinds])
        ring = torch.cat([self._ring, (fresh * 255).round().byte()])
        self._ring = ring[-settings.rounds * _IMAGES_PER_ATTACK * count :]
        self._cost["attacked"] += count
        self._cost["found"] += int(attacked.success.sum())
        self._cost["passes"] += attacked.num_passes + count

    def _metrics(self) -> dict[str, Tensor]:
        """Return the success rate of attacks, teacher passes per image, and steps per round."""
        success = self._cost["found"] / max(1, self._cost["attacked"])
        passes = self._cost["passes"] / self._cost["images"]
        metrics = {
            "attack_success": success,
            "attack_passes": passes,
            "round": self._settings.every,
        }
        return {name: torch.tensor(float(value)) for name, value in metrics.items()}
