"""What a generator makes in five steps, the more often it has done so."""

from drawing import context, digits_teacher, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.nets.generators import GeneratorPlan
from doublure.sources.fast_meta import FastMeta

COLUMNS, BATCH = 10, 64
SHOWN = (1, 10, 60)


def main() -> None:
    teacher = digits_teacher()
    generator = GeneratorPlan(head="sigmoid", width=16)
    source = FastMeta(generator=generator, shift=1, flip=0.0)
    stream = source.open(context(teacher.contract, BATCH), teacher, from_seed(0))
    with picture("fast_meta", 64 * len(SHOWN), colours=64, scale=1.2) as figure:
        grid = iter(figure.subplots(len(SHOWN), COLUMNS))
        for call in range(max(SHOWN)):
            batch = stream.draw(call, None)
            assert batch.labels is not None
            if call + 1 not in SHOWN:
                continue
            row = next(grid)
            for digit, axes in enumerate(row):
                plain(axes)
                tile(axes, batch.images[(batch.labels == digit).nonzero()[0, 0]])
            label(row[0], f"call {call + 1}")


if __name__ == "__main__":
    main()
