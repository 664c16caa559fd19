"""Digits that were inverted from a network, beside real ones and those of the image prior alone."""

import dataclasses

import torch
from drawing import context, digits_teacher, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.data.digits import digits
from doublure.sources.deep_inversion import settings_for

COLUMNS, BATCH = 10, 100


def main() -> None:
    teacher = digits_teacher()
    inversion = settings_for(teacher.contract)
    pixels, labels = digits("train")
    real = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    rows = {"real": (real, labels)}
    prior = dataclasses.replace(inversion, features=0.0)
    for name, settings in (("inverted", inversion), ("prior alone", prior)):
        batch = settings.open(context(teacher.contract, BATCH), teacher, from_seed(0)).draw(0, None)
        assert batch.labels is not None
        rows[name] = (batch.images, batch.labels)
    with picture("deep_inversion", 64 * len(rows), colours=64, scale=1.2) as figure:
        grid = figure.subplots(len(rows), COLUMNS)
        for row, (name, (images, called)) in zip(grid, rows.items(), strict=True):
            for digit, axes in enumerate(row):
                tile(axes, images[called == digit][0])
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
