"""Two parts of soft targets, image by image: what a sure teacher keeps of the second."""

import torch
from drawing import FAINT, STUDENT, THIRD, digits_pair, picture

from doublure.objectives.dkd import decoupled_losses

TEMPERATURE = 4.0


def main() -> None:
    teacher, student, images, labels = digits_pair()
    with torch.no_grad():
        taught = teacher(images)
        target, others = decoupled_losses(student(images), taught, labels, TEMPERATURE)
    sure = (taught / TEMPERATURE).softmax(-1).gather(1, labels[:, None])[:, 0]
    with picture("dkd", 210) as figure:
        axes = figure.subplots(1, 2, sharex=True)
        axes[0].scatter(sure, target, s=12, color=THIRD)
        axes[0].set_title("target class: TCKD")
        axes[1].scatter(sure, others, s=12, color=STUDENT, label="NCKD")
        kept = (1 - sure) * others
        axes[1].scatter(
            sure, kept, s=12, facecolors="none", edgecolors=STUDENT, label="(1 - p) NCKD"
        )
        axes[1].set_title("other classes")
        axes[1].set_ylim(top=12)  # room for the legend
        axes[1].legend(loc="upper left")
        for part in axes:
            part.set_xlabel("p, the teacher's for the class")
            part.grid(axis="y", color=FAINT, linewidth=0.6)


if __name__ == "__main__":
    main()
