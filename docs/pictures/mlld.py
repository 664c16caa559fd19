"""Products between samples and between classes, of the teacher's and the student's answers."""

import torch
from drawing import digits_pair, matrix, picture

TEMPERATURE = 4.0


def main() -> None:
    teacher, student, images, _ = digits_pair()
    with torch.no_grad():
        p, q = ((net(images) / TEMPERATURE).softmax(-1) for net in (teacher, student))
    with picture("mlld", 160, colours=64) as figure:
        axes = figure.subplots(1, 4)
        for part, values, title, below in (
            (axes[0], p @ p.T, "teacher", "60 x 60 images"),
            (axes[1], q @ q.T, "student", "60 x 60 images"),
            (axes[2], p.T @ p, "teacher", "10 x 10 classes"),
            (axes[3], q.T @ q, "student", "10 x 10 classes"),
        ):
            matrix(part, values, title, below)


if __name__ == "__main__":
    main()
