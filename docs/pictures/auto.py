"""What the default recipe shows: shader images, and what a short inversion makes of them."""

from drawing import context, digits_in_colour, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.engine.method import MethodInputs
from doublure.sources.matched import Matched
from doublure.sources.shaders import Shaders
from doublure.sources.short_inversion import ShortInversion
from doublure.tasks.classification.auto import auto

COLUMNS, BATCH = 8, 64


def main() -> None:
    teacher = digits_in_colour()
    (stage,) = auto(MethodInputs(contract=teacher.contract, base=Shaders(instances=1)))
    starts = Matched(source=Shaders(instances=1))
    rows = {"starts": starts, "inverted": ShortInversion(source=starts), "shown": stage.source}
    place = context(teacher.contract, BATCH, steps=40)
    with picture("auto", 64 * len(rows), colours=96, scale=1.2) as figure:
        grid = figure.subplots(len(rows), COLUMNS)
        for row, (name, source) in zip(grid, rows.items(), strict=True):
            images = source.open(place, teacher, from_seed(0)).draw(0, None).images
            for axes, image in zip(row, images[:COLUMNS], strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
