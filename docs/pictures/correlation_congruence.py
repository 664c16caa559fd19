"""The kernel between 60 digits, by class, of teacher and student."""

from drawing import compared, digits_pair, matrix, picture

from doublure.core.protocols import image_batch
from doublure.objectives.correlation_congruence import CorrelationCongruence, taylor_kernel


def main() -> None:
    teacher, student, images, _ = digits_pair()
    loss, ours, theirs = compared(CorrelationCongruence(), student, teacher, image_batch(images))
    (name,), (taught,) = loss.features.student, loss.features.teacher
    with picture("correlation_congruence", 250, colours=64) as figure:
        axes = figure.subplots(1, 2)
        matrix(axes[0], taylor_kernel(theirs.features[taught], 0.4, 2), "teacher", "60 images")
        matrix(axes[1], taylor_kernel(ours.features[name], 0.4, 2), "student", "60 images")


if __name__ == "__main__":
    main()
