"""The loss of a pixel by the probability of its own class, for three values of focus."""

import torch
from drawing import STUDENT, TEACHER, THIRD, picture

from doublure.tasks.segmentation.pixel_labels import focal_loss

FOCUS = {0.0: STUDENT, 1.0: TEACHER, 2.0: THIRD}


def main() -> None:
    probability = torch.linspace(0.02, 0.98, 97)
    logits = torch.stack((probability.log(), (1 - probability).log()), 1)
    labels = torch.zeros(len(logits), dtype=torch.int64)
    with picture("pixel_labels", 200) as figure:
        axes = figure.subplots()
        for focus, colour in FOCUS.items():
            loss = focal_loss(logits, labels, focus)
            axes.plot(probability, loss, color=colour, linewidth=2, label=f"focus {focus:g}")
        axes.set_xlabel("probability of the pixel's own class")
        axes.set_ylabel("loss in nats")
        axes.legend()


if __name__ == "__main__":
    main()
