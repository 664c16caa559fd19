"""Images, their partners, and the two ways to mix them."""

from drawing import COLOUR, context, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.mixing import Mixed
from doublure.sources.shaders import Shaders

COLUMNS = 7


def main() -> None:
    source = Shaders(num_programs=COLUMNS, instances=1)
    place = context(COLOUR, COLUMNS)
    rows = {"as drawn": Mixed(source=source, share=0.0)}
    rows |= {"mixup": Mixed(source=source), "cutmix": Mixed(source=source, blend="cutmix")}
    with picture("mixed", 200, colours=128, scale=1.25) as figure:
        grid = figure.subplots(len(rows), COLUMNS)
        for row, (name, mixed) in zip(grid, rows.items(), strict=True):
            images = mixed.open(place, None, from_seed(4)).draw(0, None).images
            for axes, image in zip(row, images, strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
