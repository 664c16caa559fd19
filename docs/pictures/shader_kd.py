"""What becomes of shader images on their way to the student, part by part of the recipe."""

from drawing import context, digits_in_colour, label, picture, plain, tile

from doublure.core.protocols import Source
from doublure.core.seeding import from_seed
from doublure.engine.method import MethodInputs
from doublure.recipes import shader_kd
from doublure.sources.shaders import Shaders

COLUMNS, BATCH = 8, 32
NAMES = {
    "Shaders": "drawn",
    "Matched": "matched",
    "Balanced": "balanced",
    "Augmented": "augmented",
    "Mixed": "mixed",
    "Adversarial": "attacked",
}


def main() -> None:
    teacher = digits_in_colour()
    (stage,) = shader_kd(MethodInputs(contract=teacher.contract, base=Shaders(instances=1)))
    sources: list[Source] = [stage.source]
    while hasattr(sources[-1], "source"):
        sources.append(sources[-1].source)
    sources.reverse()
    place = context(teacher.contract, BATCH, steps=40)
    with picture("shader_kd", 64 * len(sources), colours=80, scale=1.2) as figure:
        grid = figure.subplots(len(sources), COLUMNS)
        for row, source in zip(grid, sources, strict=True):
            images = source.open(place, teacher, from_seed(0)).draw(0, None).images
            for axes, image in zip(row, images[:COLUMNS], strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], NAMES[type(source).__name__])


if __name__ == "__main__":
    main()
