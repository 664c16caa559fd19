"""One image of each abstract family of shader programs, in the order of a seed."""

from drawing import COLOUR, context, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.shaders.families import ABSTRACT
from doublure.sources.shaders import Shaders

COLUMNS, ROWS = 8, 4


def main() -> None:
    count = COLUMNS * ROWS
    source = Shaders(num_programs=len(ABSTRACT), instances=1)
    stream = source.open(context(COLOUR, count), None, from_seed(3))
    images = stream.draw(0, None).images
    with picture("shaders", 265, colours=128, scale=1.25) as figure:
        for axes, image in zip(figure.subplots(ROWS, COLUMNS).flat, images, strict=True):
            tile(axes, image)
            plain(axes)


if __name__ == "__main__":
    main()
