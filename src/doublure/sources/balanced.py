"""A teacher-balanced pool: as many images of each class the teacher names, from any source.

Candidates come in chunks and are rounded to bytes; one that the teacher calls c is kept while
    count[c] < quota,   quota rising from 0 to q = ceil(N / C) as candidates come,
so that the classes stay even while the pool fills. A class that the draws allowed would not fill,
at the rate at which it has been seen, is starved: surplus candidates are attacked towards it
(`nets.boundary`), and `post` and `deep_post` join the pool if the teacher, asked again about the
rounded image, agrees. What still lacks is made up by sampling: classes come up equally often, so
rare images repeat (augment after this source, not before it). A class without any image is
reported as uncovered.

Each draw adds at most one chunk, so a run starts at once and the pool is complete after some
hundred steps. Of several processes each keeps its own share of the pool.

Balance before augmentation is not balance after it: on a CIFAR-10 ResNet-20 and simple shaders,
the relative entropy of the teacher's classes was 0.70 raw, 1.00 in the pool, 0.80 after crops and
mixup, and 0.91 with `Adversarial` around those. Put Balanced around the augmentation where the fed
stream itself must be even, at the price of a fixed set of augmented images. Labels, if the inner
source has any, are dropped; attacked images could not keep them.

Frank, Davis: arXiv:2411.12817. Differs from the paper: the pool fills while the student trains;
pacing, attack-fill and even sampling are ours. The figures of CARD are quoted at second hand.
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

# Larger batches fall out of a core's cache: measured up to three times slower at 512.
_SLICE = 128
# post and deep_post
_IMAGES_PER_ATTACK = 2
_COUNTERS = ("chunks", "draws", "forwards", "attacked", "attack_passes", "attack_kept")


def admit(
    classes: Int[Tensor, " batch"], counts: Int[Tensor, " classes"], quota: int
) -> Bool[Tensor, " batch"]:
    """Return which candidates fit under the quota of their class, first come first kept."""
    nth = F.one_hot(classes, len(counts)).cumsum(0).gather(1, classes[:, None]).squeeze(1)
    return counts[classes] + nth <= quota


def starved(
    seen: Int[Tensor, " classes"], num_draws: int, max_draws: int, quota: int
) -> Bool[Tensor, " classes"]:
    """Return which classes the draws allowed will not fill, were the next draw one of them."""
    return (seen + 1) * max_draws < quota * num_draws


def pair_for_attack(
    logits: Float[Tensor, "batch classes"], needs: Int[Tensor, " classes"], limit: int
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Return rows and target classes: neediest class first, each taking its nearest image."""
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
    """Return indices, with replacement, each class that is there equally likely.

    Args:
        order: indices of the pool, sorted by class.
        counts: how many of each class the pool holds.
    """
    present = counts.nonzero().squeeze(1)
    chosen = present[torch.randint(len(present), (num_picks,), generator=rng)]
    nth = (torch.rand(num_picks, generator=rng, dtype=torch.float64) * counts[chosen]).long()
    return order[counts.cumsum(0)[chosen] - counts[chosen] + nth]


def relative_entropy(counts: Int[Tensor, " classes"]) -> float:
    """Return the entropy of the shares over its largest value; 1 is uniform, 0 one class."""
    if len(counts) < 2:
        return 1.0
    shares = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(shares).sum()) / math.log(len(counts))


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """Source: a pool of another source's images in which the teacher's classes are even.

    Args:
        source: where the candidates come from.
        pool_size: images kept, over all processes; rounded up to a multiple of the classes, and
            never more than the run will show.
        least_showings: how often the run shall show an image for it to be worth drawing; a short
            run keeps fewer images.
        chunk: candidates drawn at once.
        fill_every: steps between two chunks.
        max_draws_factor: candidates drawn at most, as a multiple of the pool's size.
        attack_fill: whether starved classes are filled by attack.
        attacks_per_chunk: candidates of a chunk that are attacked at most.
        attack: how starved classes are filled.
        even_sampling: whether classes are drawn equally often, or images are.
        precision: of the arithmetic that sorts candidates; attacks are float32 always.
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

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "BalancedStream":
        if teacher is None:
            raise ValueError(
                "balancing asks the teacher for classes, but there is no teacher; "
                "use the inner source without Balanced"
            )
        return BalancedStream(self, context, teacher, rng)


class BalancedStream:
    """A pool that fills as it is drawn from; a function of (seed, step, state) only."""

    def __init__(
        self, settings: Balanced, context: StreamContext, teacher: nn.Module, rng: torch.Generator
    ) -> None:
        classes = context.contract.classes
        # What is only looked at is drawn for a single showing.
        showings = settings.least_showings if context.split == "train" else 1
        worth_drawing = -(-context.steps * context.batch_size // showings)
        shown = min(-(-settings.pool_size // context.world), worth_drawing)
        self.quota = -(-shown // classes)
        self.capacity = self.quota * classes
        self.chunk = min(settings.chunk, self.capacity)
        self.max_chunks = math.ceil(settings.max_draws_factor * self.capacity / self.chunk)
        self._settings, self._context, self._teacher, self._rng = settings, context, teacher, rng
        self._asked = FeatureRecorder(teacher, (), settings.precision)
        inner = dataclasses.replace(context, batch_size=self.chunk, steps=self.max_chunks)
        self.stream = settings.source.open(inner, teacher, child(rng, "source"))
        self._pool = open_pool(context, rng, self.capacity)
        self._classes = torch.empty(0, dtype=torch.int32)
        self._seen = torch.zeros(classes, dtype=torch.int64)
        self._cost = dict.fromkeys(_COUNTERS, 0)
        self._sort()
        self._told = self._metrics()

    @property
    def finished(self) -> bool:
        """Whether the pool is full, or has drawn all it may."""
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
            to_images(self._pool.read(picks), self._context.device), metrics=self._told
        )

    def report(self) -> dict[str, Any]:
        """Return what the pool holds and what it has cost, as plain values.

        `forwards` and `attack_passes` are images shown to the teacher, backward counted apart.
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
        self._told = self._metrics()

    def _metrics(self) -> dict[str, Tensor]:
        report = self.report() | {"uncovered": int((self._counts == 0).sum())}
        names = ("images", "draws", "forwards", "attack_passes", "entropy", "uncovered")
        told = {f"pool_{name}": torch.tensor(float(report[name])) for name in names}
        drawn = self._cost["chunks"] / self.max_chunks
        filled = 1.0 if self.finished else max(drawn, len(self._classes) / self.capacity)
        return told | {"pool": torch.tensor(filled)}

    def _sort(self) -> None:
        self._order = self._classes.argsort(stable=True)
        self._counts = self._classes.bincount(minlength=len(self._seen))

    def _add_chunk(self) -> None:
        """Draw one chunk, keep what fits, and attack the rest where classes starve."""
        candidates = to_bytes(self.stream.draw(self._cost["chunks"], None).images)
        check_shape(candidates, self._context, "Balanced")
        self._cost["chunks"] += 1
        self._cost["draws"] += len(candidates)
        quota = math.ceil(self.quota * min(1.0, self._cost["draws"] / self.capacity))
        logits, kept = self._admit(candidates, quota)
        self._seen += logits.argmax(-1).bincount(minlength=len(self._seen))
        if self._settings.attack_fill and not kept.all():
            self._fill(candidates[~kept], logits[~kept], quota)
        self._told = self._metrics()

    def _fill(self, surplus: Tensor, logits: Tensor, quota: int) -> None:
        """Attack surplus candidates towards starved classes, as many as one chunk may."""
        max_draws = self.max_chunks * self.chunk
        lacking = (quota - self._counts).clamp(min=0)
        lacking *= starved(self._seen, self._cost["draws"], max_draws, self.quota)
        if not lacking.any():
            return
        needs = -(-lacking // _IMAGES_PER_ATTACK)
        rows, targets = pair_for_attack(logits, needs, self._settings.attacks_per_chunk)
        found = self._settings.attack(
            self._teacher,
            to_images(surplus[rows], self._context.device),
            targets.to(self._context.device),
        )
        self._cost["attacked"] += len(rows)
        self._cost["attack_passes"] += found.num_passes
        if found.success.any():
            made = torch.cat([found.post[found.success], found.deep_post[found.success]])
            _, kept = self._admit(to_bytes(made), quota)
            self._cost["attack_kept"] += int(kept.sum())

    def _admit(self, candidates: Tensor, quota: int) -> tuple[Tensor, Tensor]:
        """Put what fits into the pool; return the teacher's logits and what was kept."""
        logits = self._ask(candidates)
        classes = logits.argmax(-1)
        kept = admit(classes, self._counts, quota)
        self._pool.append(candidates[kept])
        self._classes = torch.cat([self._classes, classes[kept].int()])
        self._sort()
        return logits, kept

    def _ask(self, candidates: Tensor) -> Tensor:
        """Return the teacher's logits on rounded images, on the CPU."""
        self._cost["forwards"] += len(candidates)
        with torch.no_grad():
            answers = [
                self._asked.record(to_images(part, self._context.device)).output
                for part in torch.split(candidates, _SLICE)
            ]
        if not isinstance(answers[0], Tensor):
            raise TypeError(
                f"balancing needs one tensor of logits, but the teacher answers with "
                f"{type(answers[0]).__name__}; use the inner source without Balanced"
            )
        logits: Tensor = torch.cat(answers).float().cpu()
        if logits.shape != (len(candidates), len(self._seen)):
            raise ValueError(
                f"balancing needs {len(self._seen)} logits per image, but the teacher answers "
                f"{tuple(logits.shape)}; use the inner source without Balanced"
            )
        if not logits.isfinite().all():
            raise ValueError("the teacher's logits are not finite; check its weights")
        return logits
