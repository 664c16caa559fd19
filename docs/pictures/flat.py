"""Flat colours above, gradients below."""

from dataclasses import replace

from drawing import COLOUR, context, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.flat import Flat

COLUMNS = 8


def main() -> None:
    place = context(replace(COLOUR, size=(32, 32)), COLUMNS)
    with picture("flat", 136) as figure:
        rows = figure.subplots(2, COLUMNS)
        for row, gradient in zip(rows, (False, True), strict=True):
            images = Flat(gradient=gradient).open(place, None, from_seed(1)).draw(0, None).images
            for axes, image in zip(row, images, strict=True):
                tile(axes, image)
                plain(axes)


if __name__ == "__main__":
    main()
