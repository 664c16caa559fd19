"""What are adjusted answers and temperatures of one's own worth where the teacher errs?

The public ResNet-20 errs on a seventh of CIFAR-10's training images as JPEG files, and teaches a
ResNet-8 from scratch on those images with their labels: as they are, and with a fifth of them
replaced by another class. Every arm but labels alone is 0.9 of what is named and 0.1 of the labels,
at T = 4:

    soft targets                   the teacher's answers as they are
    adjustment                     where its top-1 is not the label, the two change places
    temperatures                   a temperature of its own for each image
    adjustment and temperatures    both, the published method
    mistakes left out              images that it calls otherwise than their labels add nothing
                                   but their labels: the plain rival

Equal steps; the processor time of each row is in it. A run is one and a half epochs, in which
augmentation hardly matters, so images are shown as they are and the teacher is asked about each
once, before all runs. Arms of a seed share initial weights, wrong labels and the order of images;
the test images judge the last step, and apart from the others those on which the teacher errs.
Differences are paired by seed and image, with a bootstrap over both.

    DOUBLURE_DATA=... python benchmarks/knowledge_adjustment.py --seeds 0 1 2
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cifar10 import public_teacher
from doublure.core.protocols import Batch, Outputs, StreamContext, image_batch
from doublure.core.seeding import child, child_seed, from_seed
from doublure.data.datasets import Dataset, batches, open_data
from doublure.engine.distill import distill, stream_context
from doublure.engine.fit import FitSettings
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.knowledge_adjustment import KnowledgeAdjustment, has_wrong_top
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.verbs.demo import BATCH
from experiments import Table, by_host, clock, print_table, summarize
from objectives_cifar10 import decoded
from objectives_digits import LABELS, PLAIN, called, correct, difference
from real_data import cifar10_folder, scratch_folder

TEACHER, STUDENT, STEPS, TEMPERATURE = "resnet20", "builtin/resnet8", 600, 4.0
CLEAN, WRONG, WRONG_SHARE = "labels as they are", "a fifth of the labels wrong", 0.2
DROPPED = "mistakes left out"


def beside_labels(objective: AnyObjective) -> AnyObjective:
    """Return an objective as the public benchmarks weigh soft targets against labels."""
    return Weighted(terms=((0.9, objective), (0.1, HardLabels())))


adjusted = partial(KnowledgeAdjustment, temperature=TEMPERATURE)
ARMS: dict[str, AnyObjective] = {
    LABELS: HardLabels(),
    PLAIN: beside_labels(SoftTargets(temperature=TEMPERATURE)),
    "adjustment": beside_labels(adjusted(hardness="none")),
    "temperatures": beside_labels(adjusted(adjustment="none")),
    "adjustment and temperatures": beside_labels(adjusted()),
    DROPPED: beside_labels(adjusted(adjustment="drop", hardness="none")),
}


@dataclass(frozen=True)
class Lessons:
    """Training images, uint8, their labels, and what the teacher answers to each."""

    images: Tensor
    labels: Tensor
    answers: Tensor

    @property
    def mistaken(self) -> float:
        """The share of images that the teacher calls otherwise than their labels."""
        return float(has_wrong_top(self.answers, self.labels).float().mean())

    def with_wrong_labels(self, share: float, seed: int) -> "Lessons":
        """Return the same with a share of the labels replaced by another class."""
        rng = from_seed(child_seed(seed, "wrong labels"))
        chosen = torch.randperm(len(self.labels), generator=rng)[: round(share * len(self.labels))]
        classes = self.answers.shape[1]
        labels = self.labels.clone()
        labels[chosen] += torch.randint(1, classes, (len(chosen),), generator=rng)
        return Lessons(self.images, labels % classes, self.answers)


@dataclass(frozen=True)
class Taught:
    """Source: shuffled epochs of lessons, with the answers that are known."""

    lessons: Lessons

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "TaughtStream":
        return TaughtStream(self.lessons, context, rng)


class TaughtStream:
    """The images at step s are those at the places [s B, (s + 1) B) of a row of epochs."""

    def __init__(self, lessons: Lessons, context: StreamContext, rng: torch.Generator) -> None:
        self._lessons, self._size = lessons, context.batch_size
        shown = -(-context.steps * context.batch_size // len(lessons.labels))
        orders = [
            torch.randperm(len(lessons.labels), generator=child(rng, epoch))
            for epoch in range(shown)
        ]
        self._order = torch.cat(orders)

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        index = self._order[step * self._size : (step + 1) * self._size]
        known = self._lessons
        return image_batch(
            known.images[index].float() / 255,
            labels=known.labels[index],
            index=index,
            teacher=Outputs(output=known.answers[index]),
        )

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Classroom:
    """What all runs share: the teacher, its lessons, and the test images."""

    def __init__(self) -> None:
        _, self.teacher = public_teacher(TEACHER)
        self.test = open_data(cifar10_folder(), self.teacher.contract, split="test", labels=True)

    @cached_property
    def lessons(self) -> Lessons:
        data = open_data(decoded(self.teacher.contract), self.teacher.contract, labels=True)
        assert data.labels is not None
        images = torch.cat([pixels for pixels, _ in batches(data, 1024)])
        kept = scratch_folder() / "cifar10" / f"{TEACHER}-{torch.__version__}.npy"
        if not kept.exists():
            np.save(kept.with_suffix(".part.npy"), answers_of(self.teacher, data).numpy())
            kept.with_suffix(".part.npy").replace(kept)
        return Lessons(images, data.labels, torch.from_numpy(np.load(kept)))

    @cached_property
    def taught(self) -> Tensor:
        """What the teacher calls each test image."""
        return called(self.teacher, self.test)


def answers_of(network: Network, data: Dataset) -> Tensor:
    """Return the logits of all images."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(pixels / 255) for pixels, _ in batches(data, 256)])


def run(arm: str, at: str, seed: int, room: Classroom, steps: int) -> dict[str, Any]:
    """Train one student and return its row."""
    lessons = room.lessons
    if at == WRONG:
        lessons = lessons.with_wrong_labels(WRONG_SHARE, seed)
    settings = FitSettings(steps=steps, batch_size=BATCH, precision="float32", log_every=steps)
    began = clock()
    rng = from_seed(child_seed(seed, "student"))
    student = load(NetworkRef(ref=STUDENT), like=room.teacher.contract, rng=rng)
    distill(
        student,
        room.teacher,
        Taught(lessons),
        ARMS[arm],
        settings=settings,
        context=stream_context(student.contract, student, settings),
        rng=from_seed(child_seed(seed, "stage", 0)),
    )
    seconds = clock() - began
    ours = called(student, room.test)
    right, missed = ours == room.test.labels, room.taught != room.test.labels
    return {
        "at": at,
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        "mistaken": lessons.mistaken,
        "accuracy": float(right.float().mean()),
        "accuracy_where_teacher_errs": float(right[missed].float().mean()),
        "agreement": float((ours == room.taught).float().mean()),
        "right": np.packbits(right.numpy()).tobytes().hex(),
        "count": len(right),
    }


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what each arm has over labels alone, soft targets, and mistakes left out."""
    made = []
    for host, here in by_host(rows).items():
        for at, arm in dict.fromkeys((row["at"], row["arm"]) for row in here):
            of = partial(correct, here, at=at)
            for rival in (LABELS, PLAIN, DROPPED):
                gap = difference(of(arm=arm), of(arm=rival))
                if gap is not None and rival != arm:
                    made.append({"host": host, "at": at, "arm": arm, "over": rival, **gap})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--labels", nargs="+", default=["clean", "wrong"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--name", default="knowledge_adjustment", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"pair": "resnet20 -> resnet8", "steps": given.steps, "batch_size": BATCH}
    table = Table(given.name, __doc__.splitlines()[0], setting)
    room = Classroom()
    for seed in given.seeds:
        for at in ({"clean": CLEAN, "wrong": WRONG}[name] for name in given.labels):
            for arm in given.arms:
                if table.has(arm=arm, at=at, seed=seed):
                    continue
                row = run(arm, at, seed, room, given.steps)
                table.add(row, ("at", "arm"))
                print(
                    f"{at}, {arm}, seed {seed}: {row['accuracy']:.2%}, "
                    f"{row['accuracy_where_teacher_errs']:.2%} where the teacher errs; the teacher "
                    f"is mistaken on {row['mistaken']:.2%}; {row['seconds']:.0f} s",
                    flush=True,
                )
    table.extend(("at", "arm"), differences=differences(table.rows))
    print_table(summarize(table.rows, ("at", "arm")))
    for gap in table.head["differences"]:
        print(
            f"{gap['at']}, {gap['arm']} over {gap['over']}: {gap['mean']:+.2f} points "
            f"({gap['low']:+.2f} to {gap['high']:+.2f}, {gap['seeds']} seeds)"
        )


if __name__ == "__main__":
    main()
