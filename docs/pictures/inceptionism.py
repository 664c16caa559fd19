"""Noise, and smooth images that a network which knows digits calls by their labels."""

from drawing import context, digits_teacher, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.knowledge_within import inceptionism_for
from doublure.sources.noise import Noise

COLUMNS, BATCH = 10, 100


def main() -> None:
    teacher = digits_teacher()
    rows = {"noise": Noise(), "inceptionism": inceptionism_for(teacher.contract)}
    with picture("inceptionism", 64 * len(rows), colours=64, scale=1.2) as figure:
        grid = figure.subplots(len(rows), COLUMNS)
        for row, (name, source) in zip(grid, rows.items(), strict=True):
            place = context(teacher.contract, BATCH)
            images = source.open(place, teacher, from_seed(0)).draw(0, None).images
            for axes, image in zip(row, images, strict=False):
                tile(axes, image)
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
