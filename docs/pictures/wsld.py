"""The weight of each image, by the losses of student and teacher."""

import torch
import torch.nn.functional as F
from drawing import FAINT, digits_pair, picture

from doublure.objectives.wsld import soft_label_weights


def main() -> None:
    teacher, student, images, labels = digits_pair(600)
    with torch.no_grad():
        taught, learnt = teacher(images), student(images)
    weights = soft_label_weights(learnt, taught, labels)
    ours, theirs = (F.cross_entropy(x, labels, reduction="none") for x in (learnt, taught))
    with picture("wsld", 230) as figure:
        axes = figure.subplots()
        dots = axes.scatter(theirs, ours, c=weights, s=22, cmap="viridis", vmin=0, vmax=1)
        low, high = theirs.min().item(), ours.max().item()
        axes.plot([low, high], [low, high], color=FAINT)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("the teacher's loss on the label")
        axes.set_ylabel("the student's")
        figure.colorbar(dots, ax=axes, label="weight").outline.set_visible(False)


if __name__ == "__main__":
    main()
