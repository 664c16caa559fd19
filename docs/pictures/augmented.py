"""The same images as they are, and under each published augmentation."""

from drawing import COLOUR, context, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.augmentation import PUBLISHED, augment
from doublure.sources.shaders import Shaders

COLUMNS = 7


def main() -> None:
    source = Shaders(num_programs=COLUMNS, instances=1)
    images = source.open(context(COLOUR, COLUMNS), None, from_seed(4)).draw(0, None).images
    rows = {"as drawn": images}
    for name, augmentation in PUBLISHED.items():
        rows[name] = augment(images, augmentation, from_seed(0))
    with picture("augmented", 260, colours=128, scale=1.25) as figure:
        grid = figure.subplots(len(rows), COLUMNS)
        for row, (name, shown) in zip(grid, rows.items(), strict=True):
            for axes, image in zip(row, shown, strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
