"""Dead leaves of one batch."""

from drawing import COLOUR, context, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.leaves import Leaves

COLUMNS, ROWS = 8, 2


def main() -> None:
    stream = Leaves().open(context(COLOUR, COLUMNS * ROWS), None, from_seed(0))
    images = stream.draw(0, None).images
    with picture("leaves", 136, colours=128, scale=1.5) as figure:
        for axes, image in zip(figure.subplots(ROWS, COLUMNS).flat, images, strict=True):
            tile(axes, image)
            plain(axes)


if __name__ == "__main__":
    main()
