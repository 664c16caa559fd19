"""The targets of one image: its label, the label smoothed, the teacher's top-1 and its answer."""

import torch
import torch.nn.functional as F
from drawing import STUDENT, TEACHER, context, digits_teacher, picture, tile

from doublure.core.seeding import from_seed
from doublure.sources.surrogate import Surrogate

SMOOTHING, CLASSES = 0.1, 10


def main() -> None:
    teacher = digits_teacher()
    source = Surrogate(data="builtin/digits", labels=True)
    batch = source.open(context(teacher.contract, 64), teacher, from_seed(0)).draw(0, None)
    assert batch.labels is not None
    with torch.no_grad():
        answers = teacher(batch.images).softmax(-1)
    place = int(answers.amax(-1).argmin())
    label = F.one_hot(batch.labels[place], CLASSES).float()
    targets = {
        "label": label,
        "smoothed": (1 - SMOOTHING) * label + SMOOTHING / CLASSES,
        "teacher's top-1": F.one_hot(answers[place].argmax(), CLASSES).float(),
    }
    with picture("hard_labels", 165) as figure:
        grid = figure.subplots(1, 4, width_ratios=(1.1, 1.5, 1.5, 1.5))
        tile(grid[0], batch.images[place], "image")
        for axes, (name, target) in zip(grid[1:], targets.items(), strict=True):
            colour = TEACHER if name.startswith("teacher") else STUDENT
            axes.bar(range(CLASSES), (100 * target).tolist(), 0.8, color=colour)
            axes.set_title(name, loc="center")
            axes.set_xticks(range(0, CLASSES, 3))
            axes.set_ylim(0, 100)
            axes.set_yticks([0, 50, 100], [] if axes is not grid[1] else ["0", "50", "100 %"])


if __name__ == "__main__":
    main()
