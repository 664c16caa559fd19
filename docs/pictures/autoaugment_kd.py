"""Of how many views of digits a teacher no longer sees the label, by what was done to them."""

import torch
from drawing import STUDENT, context, digits_teacher, picture

from doublure.core.seeding import from_seed
from doublure.sources.augmenting import AUGMENTERS
from doublure.sources.surrogate import Surrogate

STEPS, BATCH = 10, 128


def main() -> None:
    teacher = digits_teacher()
    images = Surrogate(data="builtin/digits", labels=True, held_out=0.0)
    shown = {"none": images}
    shown |= {name: make(images, teacher.contract) for name, make in AUGMENTERS.items()}
    shares = {}
    for name, source in shown.items():
        stream = source.open(context(teacher.contract, BATCH), teacher, from_seed(0))
        wrong = 0
        for step in range(STEPS):
            batch = stream.draw(step, None)
            with torch.no_grad():
                wrong += int((teacher(batch.images).argmax(-1) != batch.labels).sum())
        shares[name] = 100 * wrong / (STEPS * BATCH)
    with picture("autoaugment_kd", 165) as figure:
        axes = figure.subplots()
        axes.barh(list(shares)[::-1], list(shares.values())[::-1], 0.6, color=STUDENT)
        axes.set_title("views that the teacher takes for another class, %")


if __name__ == "__main__":
    main()
