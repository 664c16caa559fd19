"""Distances and angles between 60 digits, of the student against those of the teacher."""

from drawing import FAINT, STUDENT, THIRD, compared, digits_pair, picture

from doublure.core.protocols import image_batch
from doublure.objectives.rkd import RKD, angles, relative_distances


def main() -> None:
    teacher, student, images, _ = digits_pair()
    loss, ours, theirs = compared(RKD(), student, teacher, image_batch(images))
    (name,), (taught,) = loss.features.student, loss.features.teacher
    one, other = ours.features[name], theirs.features[taught]
    with picture("rkd", 250, colours=64) as figure:
        axes = figure.subplots(1, 2)
        for part, relation, title, colour, every in (
            (axes[0], relative_distances, "distances, over their mean", STUDENT, 3),
            (axes[1], angles, "cosines of angles", THIRD, 150),
        ):
            mine, its = relation(one).flatten()[::every], relation(other).flatten()[::every]
            part.scatter(its, mine, s=3, color=colour, linewidths=0)
            part.plot([its.min(), its.max()], [its.min(), its.max()], color=FAINT)
            part.set_title(title)
            part.set_xlabel("teacher")
        axes[0].set_ylabel("student")


if __name__ == "__main__":
    main()
