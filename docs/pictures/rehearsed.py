"""One batch of new classes and of what stands in for the old ones."""

from drawing import context, digits_teacher, picture, tile

from doublure.core.seeding import from_seed
from doublure.sources.noise import Noise
from doublure.sources.rehearsed import Rehearsed
from doublure.sources.surrogate import Surrogate


def main() -> None:
    source = Rehearsed(source=Noise(), new=Surrogate(data="builtin/digits", labels=True))
    batch = source.open(context(digits_teacher().contract, 12), None, from_seed(0)).draw(0, None)
    with picture("rehearsed", 190, scale=1.25) as figure:
        grid = figure.subplots(2, 6)
        for axes, image, label in zip(grid.flat, batch.images, batch.labels.tolist(), strict=True):
            tile(axes, image, below=f"label {label}" if label >= 0 else "no label")


if __name__ == "__main__":
    main()
