"""The logits of one image, as they are and standardised."""

import torch
from drawing import FAINT, STUDENT, TEACHER, digits_pair, picture

from doublure.objectives.logit_standardisation import standardise


def main() -> None:
    teacher, student, images, _ = digits_pair()
    with torch.no_grad():
        logits = teacher(images[:1]), student(images[:1])
    with picture("logit_standardisation", 190) as figure:
        axes = figure.subplots(1, 2)
        for part, title, seen in (
            (axes[0], "logits", logits),
            (axes[1], "standardised", tuple(standardise(x) for x in logits)),
        ):
            for values, colour, name in zip(
                seen, (TEACHER, STUDENT), ("teacher", "student"), strict=True
            ):
                part.plot(range(10), values[0], "o-", ms=4, lw=1, color=colour, label=name)
            part.set_title(title)
            part.set_xlabel("class")
            part.set_xticks(range(10))
            part.grid(axis="y", color=FAINT, linewidth=0.6)
        axes[0].legend(loc="upper right")


if __name__ == "__main__":
    main()
