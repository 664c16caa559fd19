"""A teacher-balanced pool: equally many images of each class predicted by the teacher.

Candidates from any source arrive in chunks and are rounded to bytes. A candidate that the teacher
assigns to class c is kept while
    count[c] < quota,   quota rising from 0 to q = ceil(N / C) as candidates arrive,
so that the classes stay balanced while the pool fills. A class is starved if, at the rate at which
it has been predicted, the allowed number of draws would not fill it: then surplus candidates are
attacked towards it (`nets.boundary`), and `post` and `deep_post` are added to the pool if the
teacher predicts that class for the rounded image too. Sampling compensates for the rest: classes
are drawn equally often, so images of rare classes repeat (augment after this source, not before
it). A class without any image is reported as uncovered.

Each draw adds at most one chunk, so that training starts immediately and the pool is complete after
some hundred steps. With several processes, each keeps its own share of the pool.

Balance before augmentation is not balance after it: on a CIFAR-10 ResNet-20 and simple shaders,
the relative entropy of the teacher's classes was 0.70 raw, 1.00 in the pool, 0.80 after crops and
mixup, and 0.91 with `Adversarial` around those. If the batches themselves must be balanced, wrap
the augmentation in Balanced; the set of augmented images is then fixed. Labels of the inner source
are dropped: they are not valid for attacked images.

Frank, Davis: arXiv:2411.12817. Differs from the paper: the pool fills while the student trains;
pacing, attack-fill and even sampling are ours. The values in CARD are from a secondary source.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, Source, StreamContext, image_batch
from doublure.core.seeding import child
from doublure.nets.boundary import BoundaryAttack
from doublure.nets.features import FeatureRecorder
from doublure.nets.precision import Precision
from doublure.sources.image_pool import check_shape, open_pool, to_bytes, to_images

CARD = Card(
    paper="Frank, Davis: What Makes a Good Dataset for Knowledge Distillation?, arXiv:2411.12817",
    needs=("logits", "gradients"),
    reported={
        "CIFAR-10 student, 20K long-tailed OpenGL images": 88.93,
        "CIFAR-10 student, 20K class-uniform OpenGL images": 92.32,
    },
)

# Larger batches exceed a core's cache: 512 was up to three times slower per image.
_SLICE = 128
# post and deep_post
_IMAGES_PER_ATTACK = 2
_COUNTERS = ("chunks", "draws", "forwards", "attacked", "attack_passes", "attack_kept")


def admit(
    classes: Int[Tensor, " batch"], counts: Int[Tensor, " classes"], quota: int
) -> Bool[Tensor, " batch"]:
    """Return which candidates fit under the quota of their class, in order of arrival."""
    # The rank of each candidate among those of its class in this chunk, from 1.
    nth = F.one_hot(classes, len(counts)).cumsum(0).gather(1, classes[:, None]).squeeze(1)
    return counts[classes] + nth <= quota


def starved_classes(
    seen: Int[Tensor, " classes"], num_draws: int, max_draws: int, quota: int
) -> Bool[Tensor, " classes"]:
    """Return which classes the allowed draws will not fill, by the rate at which they occur."""
    # The rate is (seen + 1) / num_draws: a class that was never seen counts as seen once.
    return (seen + 1) * max_draws < quota * num_draws


def pair_for_attack(
    logits: Float[Tensor, "batch classes"], needs: Int[Tensor, " classes"], limit: int
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Return rows and target classes of attacks.

    Classes take turns, the one with the largest need first. Each takes the unused image with the
    smallest gap between its own logit and the largest one.
    """
    order = needs.argsort(descending=True, stable=True)
    rounds = torch.cat([torch.arange(int(needs[c])) for c in order])
    targets = order.repeat_interleave(needs[order])[rounds.argsort(stable=True)]
    targets = targets[: min(limit, len(logits))]
    gap = logits - logits.max(dim=-1, keepdim=True).values
    rows = torch.empty_like(targets)
    for i, target in enumerate(targets.tolist()):
        rows[i] = gap[:, target].argmax()
        gap[rows[i]] = -torch.inf
    return rows, targets


def pick_evenly(
    order: Int[Tensor, " pool"],
    counts: Int[Tensor, " classes"],
    num_picks: int,
    rng: torch.Generator,
) -> Int[Tensor, " batch"]:
    """Return random indices, with replacement; all classes in the pool are equally likely.

    Args:
        order: indices of the pool, sorted by class.
        counts: number of images of each class in the pool.
    """
    present = counts.nonzero().squeeze(1)
    chosen = present[torch.randint(len(present), (num_picks,), generator=rng)]
    nth = (torch.rand(num_picks, generator=rng, dtype=torch.float64) * counts[chosen]).long()
    return order[counts.cumsum(0)[chosen] - counts[chosen] + nth]


def relative_entropy(counts: Int[Tensor, " classes"]) -> float:
    """Return the entropy of the class shares over its maximum; 1 is uniform, 0 is one class."""
    if len(counts) < 2:
        return 1.0
    shares = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(shares).sum()) / math.log(len(counts))


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """Source: a pool of another source's images with balanced teacher classes.

    Args:
        source: source of the candidates.
        pool_size: number of images in the pool, over all processes; rounded up to a multiple of the
            classes, and at most the number of images that the run uses.
        least_showings: minimum number of uses per image; a short run keeps a smaller pool.
        chunk: number of candidates per draw.
        fill_every: steps between two chunks.
        max_draws_factor: maximum number of candidates, as a multiple of the pool's size.
        attack_fill: whether starved classes are filled by attacks.
        attacks_per_chunk: maximum number of attacked candidates per chunk.
        attack: settings of the attacks that fill starved classes.
        even_sampling: True samples all classes equally often, False all images.
        precision: precision of the teacher on candidates; attacks always use float32.
    """

    source: Source
    pool_size: int = 50_000
    least_showings: int = 1
    chunk: int = 512
    fill_every: int = 1
    max_draws_factor: float = 2.0
    attack_fill: bool = True
    attacks_per_chunk: int = 128
    attack: BoundaryAttack = field(default_factory=BoundaryAttack)
    even_sampling: bool = True
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name in ("pool_size", "least_showings", "chunk", "fill_every", "attacks_per_chunk"):
            positive(name, getattr(self, name))
        if not self.max_draws_factor >= 1:
            raise ValueError(f"max_draws_factor must be at least 1, got {self.max_draws_factor}")

    def num_images(self, shown: int) -> int:
        """Return about how many images a run keeps that shows so many."""
        return max(1, min(self.pool_size, shown // self.least_showings))

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "BalancedStream":
        if teacher is None:
            raise ValueError(
                "Balanced needs a teacher to predict classes, but there is none; "
                "use the inner source without Balanced"
            )
        return BalancedStream(self, context, teacher, rng)


class BalancedStream:
    """A pool that fills while it is sampled; a function of (seed, step, state) only."""

    def __init__(
        self, settings: Balanced, context: StreamContext, teacher: nn.Module, rng: torch.Generator
    ) -> None:
        classes = context.contract.classes
        # Held-out images are used once.
        uses = settings.least_showings if context.split == "train" else 1
        most_images = -(-context.steps * context.batch_size // uses)
        size = min(-(-settings.pool_size // context.world), most_images)
        self.quota = -(-size // classes)
        self.capacity = self.quota * classes
        self.chunk = min(settings.chunk, self.capacity)
        self.max_chunks = math.ceil(settings.max_draws_factor * self.capacity / self.chunk)
        self._settings, self._context, self._teacher, self._rng = settings, context, teacher, rng
        self._recorder = FeatureRecorder(teacher, (), settings.precision)
        inner = dataclasses.replace(context, batch_size=self.chunk, steps=self.max_chunks)
        self.stream = settings.source.open(inner, teacher, child(rng, "source"))
        self._pool = open_pool(context, rng, self.capacity)
        self._classes = torch.empty(0, dtype=torch.int32)
        self._seen = torch.zeros(classes, dtype=torch.int64)
        self._cost = dict.fromkeys(_COUNTERS, 0)
        self._sort()
        self._last_metrics = self._metrics()

    @property
    def finished(self) -> bool:
        """Whether the pool is full, or has used all allowed draws."""
        return len(self._classes) == self.capacity or self._cost["chunks"] == self.max_chunks

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        if not self.finished and step % self._settings.fill_every == 0:
            self._add_chunk()
        count = self._context.batch_size
        while len(self._classes) < min(count, self.capacity) and not self.finished:
            self._add_chunk()
        rng = child(self._rng, "pool", self._context.split, self._context.rank, step)
        if self._settings.even_sampling:
            picks = pick_evenly(self._order, self._counts, count, rng)
        else:
            picks = torch.randint(len(self._classes), (count,), generator=rng)
        return image_batch(
            to_images(self._pool.read(picks), self._context.device), metrics=self._last_metrics
        )

    def report(self) -> dict[str, Any]:
        """Return the content and the cost of the pool, as plain values.

        `forwards` and `attack_passes` count images through the teacher; a backward pass counts as
        another pass.
        """
        return {
            **self._cost,
            "images": len(self._classes),
            "capacity": self.capacity,
            "counts": self._counts.tolist(),
            "uncovered": (self._counts == 0).nonzero().squeeze(1).tolist(),
            "entropy": relative_entropy(self._counts),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "source": self.stream.state_dict(),
            "pool": self._pool.state_dict(),
            "classes": self._classes.clone(),
            "seen": self._seen.clone(),
            "cost": dict(self._cost),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state["source"])
        self._pool.load_state_dict(state["pool"])
        self._classes, self._seen = state["classes"].clone(), state["seen"].clone()
        self._cost = dict(state["cost"])
        self._sort()
        self._last_metrics = self._metrics()

    def _metrics(self) -> dict[str, Tensor]:
        report = self.report() | {"uncovered": int((self._counts == 0).sum())}
        names = ("images", "draws", "forwards", "attack_passes", "entropy", "uncovered")
        metrics = {f"pool_{name}": torch.tensor(float(report[name])) for name in names}
        drawn = self._cost["chunks"] / self.max_chunks
        filled = 1.0 if self.finished else max(drawn, len(self._classes) / self.capacity)
        return metrics | {"pool": torch.tensor(filled)}

    def _sort(self) -> None:
        self._order = self._classes.argsort(stable=True)
        self._counts = self._classes.bincount(minlength=len(self._seen))

    def _add_chunk(self) -> None:
        """Draw one chunk, keep the candidates that fit, and attack others for starved classes."""
        candidates = to_bytes(self.stream.draw(self._cost["chunks"], None).images)
        check_shape(candidates, self._context, "Balanced")
        self._cost["chunks"] += 1
        self._cost["draws"] += len(candidates)
        quota = math.ceil(self.quota * min(1.0, self._cost["draws"] / self.capacity))
        logits, kept = self._admit(candidates, quota)
        self._seen += logits.argmax(-1).bincount(minlength=len(self._seen))
        if self._settings.attack_fill and not kept.all():
            self._fill(candidates[~kept], logits[~kept], quota)
        self._last_metrics = self._metrics()

    def _fill(self, surplus: Tensor, logits: Tensor, quota: int) -> None:
        """Attack surplus candidates towards starved classes, up to the limit per chunk."""
        max_draws = self.max_chunks * self.chunk
        lacking = (quota - self._counts).clamp(min=0)
        lacking *= starved_classes(self._seen, self._cost["draws"], max_draws, self.quota)
        if not lacking.any():
            return
        needs = -(-lacking // _IMAGES_PER_ATTACK)
        rows, targets = pair_for_attack(logits, needs, self._settings.attacks_per_chunk)
        attacked = self._settings.attack(
            self._teacher,
            to_images(surplus[rows], self._context.device),
            targets.to(self._context.device),
        )
        self._cost["attacked"] += len(rows)
        self._cost["attack_passes"] += attacked.num_passes
        if attacked.success.any():
            images = torch.cat(
                [attacked.post[attacked.success], attacked.deep_post[attacked.success]]
            )
            _, kept = self._admit(to_bytes(images), quota)
            self._cost["attack_kept"] += int(kept.sum())

    def _admit(self, candidates: Tensor, quota: int) -> tuple[Tensor, Tensor]:
        """Add candidates that fit to the pool; return the teacher's logits and which were kept."""
        logits = self._teacher_logits(candidates)
        classes = logits.argmax(-1)
        kept = admit(classes, self._counts, quota)
        self._pool.append(candidates[kept])
        self._classes = torch.cat([self._classes, classes[kept].int()])
        self._sort()
        return logits, kept

    def _teacher_logits(self, candidates: Tensor) -> Tensor:
        """Return the teacher's logits on rounded images, on the CPU."""
        self._cost["forwards"] += len(candidates)
        with torch.no_grad():
            outputs = [
                self._recorder.record(to_images(part, self._context.device)).output
                for part in torch.split(candidates, _SLICE)
            ]
        if not isinstance(outputs[0], Tensor):
            raise TypeError(
                f"Balanced needs one tensor of logits, but the teacher's output is a "
                f"{type(outputs[0]).__name__}; use the inner source without Balanced"
            )
        logits: Tensor = torch.cat(outputs).float().cpu()
        if logits.shape != (len(candidates), len(self._seen)):
            raise ValueError(
                f"Balanced needs {len(self._seen)} logits per image, but the teacher's output has "
                f"shape {tuple(logits.shape)}; use the inner source without Balanced"
            )
        if not logits.isfinite().all():
            raise ValueError("the teacher's logits are not finite; check its weights")
        return logits
