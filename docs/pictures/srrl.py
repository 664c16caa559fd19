"""What the teacher's classifier says of its own features and of the student's, adapted."""

import torch
from drawing import FAINT, STUDENT, compared, digits_pair, picture

from doublure.core.protocols import image_batch
from doublure.objectives.srrl import SRRL


def main() -> None:
    teacher, student, images, _ = digits_pair()
    batch = image_batch(images)
    with picture("srrl", 230) as figure:
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for part, steps in zip(axes, (1, 300), strict=True):
            loss, ours, theirs = compared(SRRL(), student, teacher, batch, steps=steps)
            with torch.no_grad():
                ((seen, _),) = loss.read(ours, theirs)
                adapted = loss.adapters[0](seen).flatten(1)
                read = teacher.body.linear(adapted)
            part.scatter(theirs.output.flatten(), read.flatten(), s=5, color=STUDENT)
            low, high = theirs.output.min().item(), theirs.output.max().item()
            part.plot([low, high], [low, high], color=FAINT)
            part.set_title(f"after {steps} step{'s' if steps > 1 else ''} of the adapter")
            part.set_xlabel("logits of the teacher")
        axes[0].set_ylabel("its classifier, student's features")


if __name__ == "__main__":
    main()
