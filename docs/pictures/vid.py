"""How surely each channel of the teacher can be predicted from the student's layer."""

from drawing import FAINT, STUDENT, TEACHER, THIRD, compared, digits_pair, picture

from doublure.core.protocols import image_batch
from doublure.objectives.vid import VID

COLOURS = (STUDENT, TEACHER, THIRD)


def main() -> None:
    teacher, student, images, _ = digits_pair()
    loss, ours, theirs = compared(VID(), student, teacher, image_batch(images), steps=1500)
    with picture("vid", 210) as figure:
        axes = figure.subplots()
        pairs = zip(loss.adapters, loss.read(ours, theirs), COLOURS, strict=True)
        for stage, (regressor, (_, taught), colour) in enumerate(pairs, 1):
            own = taught.var((0, 2, 3))
            # A channel that is never active has no variance to be a share of.
            share = (regressor.variance.detach() / own)[own > 0].sort().values
            places = [i / (len(share) - 1) for i in range(len(share))]
            axes.plot(places, share, color=colour, label=f"stage {stage}")
        axes.set_yscale("log")
        axes.set_xlabel("channels of the teacher, the surest first")
        axes.set_ylabel("variance left")
        axes.set_xticks([])
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(loc="lower right")


if __name__ == "__main__":
    main()
