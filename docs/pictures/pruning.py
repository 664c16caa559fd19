"""Importance of every group of channels of a digits network, and which of them go."""

from drawing import FAINT, INK, STUDENT, TEACHER, context, digits_teacher, picture

from doublure.compress.pruning import importances, least_important
from doublure.core.seeding import child, from_seed
from doublure.engine.distill import TeacherStream
from doublure.nets.channels import trace_channels
from doublure.sources.noise import Noise


def main() -> None:
    teacher = digits_teacher()
    stream = Noise().open(context(teacher.contract, 64), teacher, from_seed(0))
    batches = [TeacherStream(stream, teacher).draw(step, None) for step in range(4)]
    channels = trace_channels(teacher)
    scores = importances(teacher, channels, batches, "fisher", child(from_seed(0), "change"))
    gone = set(least_important(channels, scores, 0.35, 1))
    layers = ["bn1", "bn2", "bn3"]
    with picture("pruning", 200) as figure:
        axes = figure.subplots()
        for row, name in enumerate(layers):
            labels = channels.layers[name][1].tolist()
            for label in labels:
                score = max(float(scores[channels.prunable.index(label)]), 1e-9)
                colour = TEACHER if label in gone else STUDENT
                axes.plot(score, row, "o", color=colour, alpha=0.7, markersize=5)
        axes.set_xscale("log")
        axes.set_yticks(range(len(layers)), layers)
        axes.invert_yaxis()
        axes.set_xlabel("importance")
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.text(1, 1.02, "goes", color=TEACHER, transform=axes.transAxes, ha="right")
        axes.text(0.9, 1.02, "stays", color=STUDENT, transform=axes.transAxes, ha="right")
        axes.title.set_color(INK)


if __name__ == "__main__":
    main()
