"""How surely each channel of the teacher can be predicted from the student's layer."""

from drawing import FAINT, STUDENT, TEACHER, THIRD, compared, digits_pair, picture

from understudy.objectives.vid import Vid
from understudy.protocols import image_batch

COLOURS = (STUDENT, TEACHER, THIRD)


def main() -> None:
    teacher, student, images, _ = digits_pair()
    criterion, _, theirs = compared(Vid(), student, teacher, image_batch(images), steps=1500)
    with picture("vid", 210) as figure:
        axes = figure.subplots()
        for regressor, name, colour in zip(
            criterion.adapters, criterion.taps.teacher, COLOURS, strict=True
        ):
            own = theirs.taps[name].var((0, 2, 3))
            share = (regressor.variance.detach() / own).sort().values
            axes.plot(
                [i / (len(share) - 1) for i in range(len(share))], share, color=colour, label=name
            )
        axes.set_yscale("log")
        axes.set_xlabel("channels of the teacher, the surest first")
        axes.set_ylabel("variance left")
        axes.set_xticks([])
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(loc="upper left")


if __name__ == "__main__":
    main()
