"""Shader images on their way: as they begin, and after 3 and 15 steps of inversion."""

from drawing import context, digits_in_colour, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.short_inversion import ShortInversion

COLUMNS, BATCH, STEPS = 10, 100, (0, 3, 15)


def main() -> None:
    teacher = digits_in_colour()
    inversion = ShortInversion()
    stream = inversion.open(context(teacher.contract, BATCH), teacher, from_seed(0))
    shares = [step / inversion.iterations for step in STEPS[:-1]]
    batch, path = stream.draw_followed(0, None, shares, BATCH)
    assert batch.labels is not None
    with picture("short_inversion", 64 * len(STEPS), colours=128, scale=1.2) as figure:
        grid = figure.subplots(len(STEPS), COLUMNS)
        for row, step, images in zip(grid, STEPS, path.images, strict=True):
            for digit, axes in enumerate(row):
                tile(axes, images[batch.labels == digit][0])
                plain(axes)
            label(row[0], f"{step} steps")


if __name__ == "__main__":
    main()
