"""Digits inverted from a network alone, and against a student that has learnt a little."""

import torch
from drawing import context, digits_teacher, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.deep_inversion import jensen_shannon, settings_for

COLUMNS, BATCH = 10, 100


def main() -> None:
    teacher, student = digits_teacher(), digits_teacher(steps=20)
    with picture("adaptive_deep_inversion", 170, colours=64, scale=1.2) as figure:
        grid = figure.subplots(2, COLUMNS)
        for row, adaptive in zip(grid, (False, True), strict=True):
            inversion = settings_for(teacher.contract, adaptive=adaptive)
            stream = inversion.open(context(teacher.contract, BATCH), teacher, from_seed(0))
            batch = stream.draw(0, student)
            assert batch.labels is not None
            with torch.no_grad():
                apart = jensen_shannon(teacher(batch.images), student(batch.images), 3.0)
            for digit, axes in enumerate(row):
                chosen = batch.labels == digit
                tile(axes, batch.images[chosen][0], f"{apart[chosen].mean():.2f}")
                plain(axes)
            label(row[0], "adaptive" if adaptive else "plain")


if __name__ == "__main__":
    main()
