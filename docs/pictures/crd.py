"""Products of the student's embedding with the teacher's: of one image, and of two."""

import torch
from drawing import FAINT, STUDENT, TEACHER, compared, digits_pair, picture

from doublure.core.protocols import image_batch
from doublure.objectives.crd import CRD


def main() -> None:
    teacher, student, images, labels = digits_pair()
    batch = image_batch(images, labels=labels, index=torch.arange(len(images)))
    with picture("crd", 210) as figure:
        axes = figure.subplots(1, 2, sharex=True)
        for part, steps in zip(axes, (1, 200), strict=True):
            loss, _, _ = compared(CRD(num_negatives=512), student, teacher, batch, steps=steps)
            products = loss.banks.student @ loss.banks.teacher.T
            own = products.diag()
            others = products[~torch.eye(len(own), dtype=torch.bool)]
            bins = [i / 20 for i in range(-20, 21)]
            for values, colour, name in (
                (others, TEACHER, "two images"),
                (own, STUDENT, "one image"),
            ):
                part.hist(values, bins, color=colour, alpha=0.8, density=True, label=name)
            part.set_title(f"after {steps} step{'s' if steps > 1 else ''} of the embeddings")
            part.set_xlabel("product of embeddings")
            part.set_xticks([-0.5, 0, 0.5])
            part.set_yticks([])
            part.grid(axis="x", color=FAINT, linewidth=0.6)
        axes[0].legend(loc="upper left")


if __name__ == "__main__":
    main()
