"""A mistaken answer, the same adjusted in both ways, and the temperatures of a batch."""

import torch
from drawing import STUDENT, TEACHER, THIRD, context, digits_teacher, picture, tile
from torch import Tensor

from doublure.core.seeding import from_seed
from doublure.objectives.knowledge_adjustment import (
    KnowledgeAdjustment,
    cosine_hardness,
    has_wrong_top,
    sample_temperatures,
    shift_logits,
    smooth_labels,
)
from doublure.sources.augmentation import Augmentation, Augmented
from doublure.sources.surrogate import Surrogate

OBJECTIVE = KnowledgeAdjustment()


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)


def main() -> None:
    teacher, student = digits_teacher(), digits_teacher(60)
    # A teacher makes no mistakes on what it learnt; on turned and cut images it does.
    source = Augmented(
        source=Surrogate(data="builtin/digits", labels=True),
        augmentation=Augmentation(flip=0.0, num_operations=0),
    )
    batch = source.open(context(teacher.contract, 64), teacher, from_seed(0)).draw(0, None)
    labels = batch.labels
    assert labels is not None
    with torch.no_grad():
        ours, theirs = student(batch.images), teacher(batch.images)
    place = int(has_wrong_top(theirs, labels).nonzero()[0])
    label = int(labels[place])
    rows = theirs[place : place + 1], labels[place : place + 1]
    bars = {
        "answer": (rows[0] / OBJECTIVE.temperature).softmax(-1)[0],
        "shift": (shift_logits(*rows) / OBJECTIVE.temperature).softmax(-1)[0],
        "smooth": smooth_labels(rows[1], 10, OBJECTIVE.smoothing)[0],
    }
    hardness = cosine_hardness(centred(ours), centred(theirs), OBJECTIVE.exponent)
    tau = sample_temperatures(hardness, OBJECTIVE.temperature, OBJECTIVE.bias)
    with picture("knowledge_adjustment", 165) as figure:
        grid = figure.subplots(1, 5, width_ratios=(1.0, 1.2, 1.2, 1.2, 1.7))
        tile(grid[0], batch.images[place], f"label {label}")
        for axes, (name, share) in zip(grid[1:4], bars.items(), strict=True):
            colours = [TEACHER if c == label else STUDENT for c in range(10)]
            axes.bar(range(10), (100 * share).tolist(), 0.8, color=colours)
            axes.set_title(name, loc="center")
            axes.set_xticks(range(0, 10, 3))
            axes.set_ylim(0, 100)
            axes.set_yticks([0, 50, 100], [] if axes is not grid[1] else ["0", "50", "100 %"])
        grid[4].scatter(hardness, tau, s=12, color=THIRD)
        grid[4].set_title("temperature", loc="center")
        grid[4].set_xlabel("hardness")


if __name__ == "__main__":
    main()
