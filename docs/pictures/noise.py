"""Noise, and what a network that knows digits calls it: few of its classes."""

import torch
from drawing import (
    FAINT,
    INK,
    STUDENT,
    THIRD,
    context,
    digits_teacher,
    picture,
    plain,
    shares,
    tile,
)

from doublure.core.seeding import from_seed
from doublure.sources.noise import Noise

COUNT, SHOWN = 4096, 5


def main() -> None:
    teacher = digits_teacher()
    kinds = (("Gaussian", Noise(), STUDENT), ("uniform", Noise(distribution="uniform"), THIRD))
    place = context(teacher.contract, COUNT)
    with picture("noise", 230) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(1, 2.1))
        tiles = above.subplots(1, 2 * SHOWN)
        axes = below.subplots()
        for i, (name, source, colour) in enumerate(kinds):
            images = source.open(place, teacher, from_seed(0)).draw(0, None).images
            for ax, image in zip(tiles[i * SHOWN : (i + 1) * SHOWN], images, strict=False):
                tile(ax, image)
                plain(ax)
            tiles[i * SHOWN].set_title(name, loc="left", pad=4)
            with torch.no_grad():
                share = shares(teacher(images).argmax(-1), 10)
            places = [c + 0.4 * (i - 0.5) for c in range(10)]
            axes.bar(places, [100 * value for value in share], 0.4, color=colour, label=name)
        axes.axhline(10, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xticks(range(10))
        axes.set_xlabel("what the teacher calls 4,096 images; dashed: an even share")
        axes.set_ylabel("%")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(loc="upper center")


if __name__ == "__main__":
    main()
