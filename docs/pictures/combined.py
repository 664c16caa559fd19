"""One batch of several sources, and how it is divided as it grows."""

from drawing import COLOUR, FAINT, STUDENT, TEACHER, context, picture, tile

from doublure.core.seeding import from_seed
from doublure.sources.combined import Combined, divide
from doublure.sources.leaves import Leaves
from doublure.sources.shaders import Shaders

SHARES = (0.75, 0.25)
IMAGES = 8


def main() -> None:
    source = Combined(sources=(Shaders(num_programs=6, instances=1), Leaves()), shares=SHARES)
    images = source.open(context(COLOUR, IMAGES), None, from_seed(2)).draw(0, None).images
    counts = divide(IMAGES, SHARES)
    names = ["shaders"] * counts[0] + ["leaves"] * counts[1]
    sizes = range(1, 17)
    with picture("combined", 200, colours=128, scale=1.25) as figure:
        grid = figure.subplot_mosaic(
            [[f"{i}" for i in range(IMAGES)], ["bars"] * IMAGES], height_ratios=[1, 1.6]
        )
        for i, (image, name) in enumerate(zip(images, names, strict=True)):
            tile(grid[f"{i}"], image, below=name)
        bars, first = grid["bars"], [divide(size, SHARES)[0] for size in sizes]
        bars.bar(sizes, first, color=TEACHER, label="shaders, share 0.75")
        rest = [size - part for size, part in zip(sizes, first, strict=True)]
        bars.bar(sizes, rest, bottom=first, color=STUDENT, label="leaves, share 0.25")
        bars.set_xticks([*sizes])
        bars.set_title("images of each, by the size of the batch")
        bars.grid(axis="y", color=FAINT, linewidth=0.6)
        bars.legend(loc="upper left")


if __name__ == "__main__":
    main()
