"""Digits, and what the same decoder makes of three kinds of codes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from drawing import label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.data.digits import digits
from doublure.sources.lcw import draw_codes, load_generator
from doublure.verbs.train_generator import train_generator

COLUMNS, STEPS = 14, 1000
ROWS = {
    "real digits": None,
    "LCW": "generated",
    "normal codes": "normal",
    "interpolated": "interpolated",
}


def main() -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        train_generator("lcw", "builtin/digits", out=run, steps=STEPS, device="cpu")
        generator = load_generator(run)
    with picture("lcw", 150) as figure:
        grid = figure.subplots(len(ROWS), COLUMNS)
        for row, (name, kind) in zip(grid, ROWS.items(), strict=True):
            if kind is None:
                pixels = torch.from_numpy(digits("test")[0][:COLUMNS])
                images = pixels.permute(0, 3, 1, 2) / 255
            else:
                with torch.no_grad():
                    codes = draw_codes(kind, generator, COLUMNS, from_seed(1))
                    images = generator.decode(codes)
            for axes, image in zip(row, images, strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], name)


if __name__ == "__main__":
    main()
