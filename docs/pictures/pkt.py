"""How likely each of 60 digits, by class, picks each other one as its neighbour."""

from drawing import compared, digits_pair, matrix, picture

from doublure.core.protocols import image_batch
from doublure.objectives.pkt import PKT, neighbour_probabilities


def main() -> None:
    teacher, student, images, _ = digits_pair()
    loss, ours, theirs = compared(PKT(), student, teacher, image_batch(images))
    (name,), (taught,) = loss.features.student, loss.features.teacher
    with picture("pkt", 250, colours=64) as figure:
        axes = figure.subplots(1, 2)
        matrix(axes[0], neighbour_probabilities(theirs.features[taught]), "teacher", "60 images")
        matrix(axes[1], neighbour_probabilities(ours.features[name]), "student", "60 images")


if __name__ == "__main__":
    main()
