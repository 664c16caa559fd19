"""What a teacher says of an image, and of the same image after AutoAugment's sort of changes."""

import torch
from drawing import FAINT, TEACHER, context, digits_teacher, picture, tile

from doublure.core.seeding import from_seed
from doublure.objectives.truncated_targets import TruncatedTargets, top_classes
from doublure.sources.augmentation import Augmentation, augment
from doublure.sources.surrogate import Surrogate

KEPT = TruncatedTargets().num_kept


def main() -> None:
    teacher = digits_teacher()
    source = Surrogate(data="builtin/digits", labels=True)
    batch = source.open(context(teacher.contract, 64), teacher, from_seed(0)).draw(0, None)
    changed = augment(batch.images, Augmentation(flip=0.0), from_seed(0))
    with torch.no_grad():
        before, after = teacher(batch.images).softmax(-1), teacher(changed).softmax(-1)
    # The image of which the teacher is least sure after the changes.
    assert batch.labels is not None
    place = int(torch.special.entr(after).sum(-1).argmax())
    label = int(batch.labels[place])
    with picture("truncated_targets", 165) as figure:
        grid = figure.subplots(1, 4, width_ratios=(1.0, 1.6, 1.0, 1.6))
        shown = ((batch.images, before, f"label {label}"), (changed, after, "changed"))
        for i, (images, answers, title) in enumerate(shown):
            tile(grid[2 * i], images[place], title)
            axes, kept = grid[2 * i + 1], top_classes(answers, KEPT)[place].tolist()
            colours = [TEACHER if c in kept else FAINT for c in range(10)]
            axes.bar(range(10), (100 * answers[place]).tolist(), 0.8, color=colours)
            axes.set_xticks([0, 3, 6, 9])
            axes.set_ylim(0, 100)
            axes.set_yticks([0, 50, 100], ["0", "50", "100 %"])


if __name__ == "__main__":
    main()
