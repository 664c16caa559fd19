"""What one answer of a teacher says at three temperatures."""

import torch
from drawing import STUDENT, TEACHER, context, digits_teacher, picture, tile

from doublure.core.seeding import from_seed
from doublure.sources.surrogate import Surrogate

TEMPERATURES = (1.0, 4.0, 20.0)


def main() -> None:
    teacher = digits_teacher()
    source = Surrogate(data="builtin/digits")
    images = source.open(context(teacher.contract, 64), teacher, from_seed(0)).draw(0, None).images
    with torch.no_grad():
        logits = teacher(images)
    # The image of which the teacher is least sure.
    place = int(logits.softmax(-1).amax(-1).argmin())
    top = int(logits[place].argmax())
    with picture("soft_targets", 165) as figure:
        grid = figure.subplots(1, 4, width_ratios=(1.1, 1.5, 1.5, 1.5))
        tile(grid[0], images[place], "image")
        for axes, temperature in zip(grid[1:], TEMPERATURES, strict=True):
            answer = (logits[place] / temperature).softmax(-1)
            colours = [TEACHER if c == top else STUDENT for c in range(10)]
            axes.bar(range(10), (100 * answer).tolist(), 0.8, color=colours)
            axes.set_title(f"T = {temperature:g}", loc="center")
            axes.set_xticks(range(0, 10, 3))
            axes.set_ylim(0, 100)
            axes.set_yticks([0, 50, 100], [] if axes is not grid[1] else ["0", "50", "100 %"])


if __name__ == "__main__":
    main()
