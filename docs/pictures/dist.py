"""Probabilities of teacher and student, samples by classes: rows and columns are correlated."""

import torch
from drawing import digits_pair, matrix, picture

from doublure.objectives.dist import correlation

TEMPERATURE = 4.0


def main() -> None:
    teacher, student, images, _ = digits_pair()
    with torch.no_grad():
        p, q = ((net(images) / TEMPERATURE).softmax(-1) for net in (teacher, student))
    inter, intra = correlation(q, p).mean().item(), correlation(q.T, p.T).mean().item()
    with picture("dist", 210, colours=64) as figure:
        axes = figure.subplots(1, 2)
        matrix(axes[0], p, "teacher", "10 classes")
        matrix(axes[1], q, "student", "10 classes")
        axes[0].set_ylabel("60 images")
        figure.supxlabel(
            f"mean correlation of rows {inter:.2f}, of columns {intra:.2f}", fontsize=9.5
        )


if __name__ == "__main__":
    main()
