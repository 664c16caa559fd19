"""What a teacher of digits calls shader images: as they are drawn, and in the balanced pool."""

import torch
from drawing import FAINT, INK, STUDENT, TEACHER, context, digits_teacher, picture, shares

from doublure.core.seeding import from_seed
from doublure.sources.balanced import Balanced
from doublure.sources.shaders import Shaders

POOL, BATCH, STEPS = 1000, 256, 12


def main() -> None:
    teacher = digits_teacher()
    raw = Shaders()
    kinds = (
        ("as drawn", raw, TEACHER),
        ("balanced", Balanced(source=raw, pool_size=POOL), STUDENT),
    )
    place = context(teacher.contract, BATCH, steps=STEPS)
    with picture("balanced", 210) as figure:
        axes = figure.subplots()
        for i, (name, source, colour) in enumerate(kinds):
            stream = source.open(place, teacher, from_seed(0))
            images = torch.cat([stream.draw(step, None).images for step in range(STEPS)])
            with torch.no_grad():
                share = shares(teacher(images[-4 * BATCH :]).argmax(-1), 10)
            places = [c + 0.4 * (i - 0.5) for c in range(10)]
            axes.bar(places, [100 * value for value in share], 0.4, color=colour, label=name)
        axes.axhline(10, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xticks(range(10))
        axes.set_xlabel("what the teacher calls the images; dashed: an even share")
        axes.set_ylabel("%")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(loc="upper center", ncols=2)


if __name__ == "__main__":
    main()
