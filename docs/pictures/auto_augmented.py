"""Seven images as drawn, and twice as the policy changes them."""

from drawing import COLOUR, context, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.autoaugment import CIFAR10, apply_policy
from doublure.sources.shaders import Shaders

COLUMNS = 7


def main() -> None:
    source = Shaders(num_programs=COLUMNS, instances=1)
    place = context(COLOUR, COLUMNS)
    drawn = source.open(place, None, from_seed(4)).draw(0, None).images
    rows = {"as drawn": drawn}
    for name, hole in (("policy", 0.0), ("and a hole", 0.5)):
        rows[name] = apply_policy(drawn, CIFAR10, hole, from_seed(2))
    with picture("auto_augmented", 200, colours=128, scale=1.25) as figure:
        grid = figure.subplots(len(rows), COLUMNS)
        for row, (name, images) in zip(grid, rows.items(), strict=True):
            for axes, image in zip(row, images, strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
