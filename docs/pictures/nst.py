"""Which places excite the same channels: the matrices whose distance the loss is."""

import torch.nn.functional as F
from drawing import compared, digits_pair, matrix, picture, tile

from doublure.core.protocols import image_batch
from doublure.objectives.nst import NST
from doublure.objectives.pairing import MIDDLE


def main() -> None:
    teacher, student, images, _ = digits_pair()
    loss, ours, theirs = compared(NST(layers=MIDDLE), student, teacher, image_batch(images))
    ((student_maps, teacher_maps),) = loss.read(ours, theirs)
    with picture("nst", 200, colours=64) as figure:
        grid = figure.subplots(1, 3)
        tile(grid[0], images[0], "image")
        for axes, features, who in (
            (grid[1], teacher_maps, "teacher"),
            (grid[2], student_maps, "student"),
        ):
            # sum of squared channel products = squared products of places (d = 2)
            units = F.normalize(features[0].flatten(1), dim=1)
            matrix(axes, units.T @ units / len(units), who, "16 x 16 places")


if __name__ == "__main__":
    main()
