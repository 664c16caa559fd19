"""A surrogate set on its way to the student: as it is, augmented, mixed; and the answers to it."""

import torch
from drawing import FAINT, TEACHER, context, digits_in_colour, label, picture, plain, tile

from doublure.core.protocols import Source
from doublure.core.seeding import from_seed
from doublure.engine.method import MethodInputs
from doublure.recipes import surrogate_kd
from doublure.sources.leaves import Leaves

COLUMNS = 7
NAMES = {"Leaves": "as it is", "Augmented": "augmented", "Mixed": "mixed"}
TEMPERATURE = 2.0


def main() -> None:
    teacher = digits_in_colour()
    (stage,) = surrogate_kd(MethodInputs(contract=teacher.contract, base=Leaves()))
    sources: list[Source] = [stage.source]
    while hasattr(sources[-1], "source"):
        sources.append(sources[-1].source)
    sources.reverse()
    place = context(teacher.contract, COLUMNS)
    with picture("surrogate_kd", 290, colours=96, scale=1.25) as figure:
        grid = figure.subplots(len(sources) + 1, COLUMNS, height_ratios=(*[1] * len(sources), 0.8))
        for row, source in zip(grid, sources, strict=False):
            images = source.open(place, teacher, from_seed(0)).draw(0, None).images
            for axes, image in zip(row, images, strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], NAMES[type(source).__name__])
        with torch.no_grad():
            answers = (teacher(images) / TEMPERATURE).softmax(-1)
        for axes, answer in zip(grid[-1], answers, strict=True):
            axes.bar(range(10), answer.tolist(), 0.8, color=TEACHER)
            axes.set_ylim(0, 1)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines.bottom.set_color(FAINT)
            axes.spines.left.set_visible(False)
        label(grid[-1][0], "teacher")


if __name__ == "__main__":
    main()
