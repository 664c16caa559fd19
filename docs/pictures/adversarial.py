"""One attack: the image it began with and the four it found, with the teacher's answers."""

import torch
from drawing import FAINT, STUDENT, TEACHER, context, digits_teacher, picture, tile

from doublure.core.seeding import from_seed
from doublure.nets.boundary import BoundaryAttack
from doublure.sources.surrogate import Surrogate

FROM, TO = 8, 3


def main() -> None:
    teacher = digits_teacher()
    source = Surrogate(data="builtin/digits", labels=True)
    batch = source.open(context(teacher.contract, 64), teacher, from_seed(0)).draw(0, None)
    assert batch.labels is not None
    start = batch.images[batch.labels == FROM][:1]
    found = BoundaryAttack()(teacher, start, torch.tensor([TO]))
    shown = {
        "began with": start,
        "pre": found.pre,
        "post": found.post,
        "deep pre": found.deep_pre,
        "deep post": found.deep_post,
    }
    with picture("adversarial", 220) as figure:
        grid = figure.subplots(2, len(shown), height_ratios=(1.15, 1), sharey="row")
        for (name, image), above, below in zip(shown.items(), *grid, strict=True):
            with torch.no_grad():
                answer = teacher(image).softmax(-1)[0]
            tile(above, image[0], name)
            colours = [TEACHER if c == FROM else STUDENT if c == TO else FAINT for c in range(10)]
            below.bar(range(10), (100 * answer).tolist(), 0.8, color=colours)
            below.set_xticks([FROM, TO])
            below.set_ylim(0, 100)
        grid[1][0].set_ylabel("teacher, %")


if __name__ == "__main__":
    main()
