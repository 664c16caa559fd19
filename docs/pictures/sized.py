"""Shader images of one seed at three sizes."""

from drawing import COLOUR, context, picture, tile

from doublure.core.seeding import from_seed
from doublure.sources.shaders import Shaders
from doublure.sources.sized import Sized

SIZES = (64, 32, 16)
IMAGES = 6


def main() -> None:
    with picture("sized", 260, colours=128, scale=1.25) as figure:
        rows = figure.subplots(len(SIZES), IMAGES)
        for row, side in zip(rows, SIZES, strict=True):
            source = Sized(source=Shaders(num_programs=6, instances=1), size=(side, side))
            images = source.open(context(COLOUR, IMAGES), None, from_seed(2)).draw(0, None).images
            for axes, image in zip(row, images, strict=True):
                tile(axes, image)
            row[0].set_ylabel(f"{side} x {side}")


if __name__ == "__main__":
    main()
