"""Noise, and images with the statistics that a network which knows digits has stored."""

import dataclasses

from drawing import context, digits_teacher, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.knowledge_within import (
    COMBINED,
    batch_norm_statistics_for,
)
from doublure.sources.noise import Noise

COLUMNS, BATCH = 10, 100


def main() -> None:
    teacher = digits_teacher()
    statistics = batch_norm_statistics_for(teacher.contract)
    rows = {
        "noise": Noise(),
        "BNS": statistics,
        "BNS+I": dataclasses.replace(COMBINED, optimisation=statistics.optimisation),
    }
    with picture("batch_norm_statistics", 64 * len(rows), colours=64, scale=1.2) as figure:
        grid = figure.subplots(len(rows), COLUMNS)
        for row, (name, source) in zip(grid, rows.items(), strict=True):
            place = context(teacher.contract, BATCH)
            images = source.open(place, teacher, from_seed(0)).draw(0, None).images
            for axes, image in zip(row, images, strict=False):
                tile(axes, image)
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
