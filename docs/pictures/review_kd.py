"""One level at the scales at which it is compared, after the fusion has learnt."""

import torch
import torch.nn.functional as F
from drawing import compared, digits_pair, matrix, picture, tile

from doublure.core.protocols import image_batch
from doublure.objectives.review_kd import ReviewKD

SCALES = (8, 4, 2, 1)


def main() -> None:
    teacher, student, images, _ = digits_pair()
    review, ours, theirs = compared(ReviewKD(), student, teacher, image_batch(images), steps=100)
    within = review._loss
    residual = None
    with torch.no_grad():
        pairs = list(zip(within.fusions, within._levels.maps(ours, theirs), strict=True))
        for fusion, (features, taught) in reversed(pairs):
            fused, residual = fusion(features, residual, taught.shape[2:])
    channel = int(taught[0].var((1, 2)).argmax())
    with picture("review_kd", 230, colours=64) as figure:
        grid = figure.subplots(2, 5)
        for row, maps, who in ((grid[0], taught, "teacher"), (grid[1], fused, "fused")):
            tile(row[0], images[0], "image" if who == "teacher" else "")
            for axes, scale in zip(row[1:], SCALES, strict=True):
                pooled = F.adaptive_avg_pool2d(maps[0, channel][None], scale)[0]
                matrix(axes, pooled, f"{who}, {scale} x {scale}")
                axes.images[0].set_clim(taught[0, channel].min(), taught[0, channel].max())


if __name__ == "__main__":
    main()
