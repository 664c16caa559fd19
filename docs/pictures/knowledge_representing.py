"""How the weights of a teacher's stages are spread, and those of a student before training."""

import torch
from drawing import STUDENT, TEACHER, digits_teacher, picture

from doublure.core.seeding import from_seed
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.knowledge_representing import (
    KnowledgeRepresenting,
    soft_histogram,
    stage_weights,
)

BINS = KnowledgeRepresenting().num_bins


def main() -> None:
    teacher = digits_teacher()
    student = load(NetworkRef(ref="builtin/convnet-6"), like=teacher.contract, rng=from_seed(1))
    images = torch.zeros(2, teacher.contract.channels, *teacher.contract.size)
    groups = zip(stage_weights(teacher, images), stage_weights(student, images), strict=True)
    places = torch.linspace(-4, 4, BINS)
    with picture("knowledge_representing", 165) as figure:
        grid = figure.subplots(1, 3, sharey=True)
        for i, (axes, pair) in enumerate(zip(grid, groups, strict=True)):
            for name, colour, weights in zip(
                ("teacher", "student"), (TEACHER, STUDENT), pair, strict=True
            ):
                shares = soft_histogram(torch.cat([w.detach().flatten() for w in weights]), BINS)
                axes.plot(places, 100 * shares, color=colour, label=name)
            axes.set_title(f"stage {i + 1}", loc="center")
            axes.set_xlabel("deviations")
        grid[0].set_ylabel("% of the weights")
        grid[0].set_ylim(top=20)  # room for the legend
        grid[2].legend(loc="upper right")


if __name__ == "__main__":
    main()
