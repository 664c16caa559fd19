"""Shader images as drawn, and matched to what two networks were trained on."""

from dataclasses import replace

from drawing import COLOUR, context, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.matched import Matched
from doublure.sources.shaders import Shaders

COLUMNS = 7
DARK = replace(COLOUR, mean=(0.2, 0.2, 0.2), std=(0.15, 0.15, 0.15))
IMAGENET = replace(COLOUR, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def main() -> None:
    shaders = Shaders(num_programs=COLUMNS, instances=1)
    matched = Matched(source=shaders)
    rows = {
        "as drawn": shaders.open(context(COLOUR, COLUMNS), None, from_seed(4)),
        "ImageNet's": matched.open(context(IMAGENET, COLUMNS), None, from_seed(4)),
        "dark data's": matched.open(context(DARK, COLUMNS), None, from_seed(4)),
    }
    with picture("matched", 200, colours=128, scale=1.25) as figure:
        grid = figure.subplots(len(rows), COLUMNS)
        for row, (name, stream) in zip(grid, rows.items(), strict=True):
            for axes, image in zip(row, stream.draw(0, None).images, strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
