"""Channels of the teacher's hint, and what a regressor makes of the student's layer."""

import torch
from drawing import compared, digits_pair, matrix, picture, tile

from doublure.core.protocols import image_batch
from doublure.objectives.fit_nets import FitNets


def main() -> None:
    teacher, student, images, _ = digits_pair()
    batch = image_batch(images)
    loss, ours, theirs = compared(FitNets(), student, teacher, batch, steps=300)
    ((seen, hint),) = loss.read(ours, theirs)
    with torch.no_grad():
        regressed = loss.eval().adapters[0](seen)[0]
    taught = hint[0]
    strongest = taught.var((1, 2)).argsort(descending=True)[:4].tolist()
    with picture("fit_nets", 230, colours=64) as figure:
        grid = figure.subplots(2, 5)
        tile(grid[0, 0], images[0], "image")
        grid[1, 0].set_axis_off()
        for place, channel in enumerate(strongest, 1):
            matrix(grid[0, place], taught[channel], f"teacher, {channel}")
            matrix(grid[1, place], regressed[channel], "regressed")


if __name__ == "__main__":
    main()
