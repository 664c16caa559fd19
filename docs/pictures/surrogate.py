"""Three stand-ins for the digits, and which classes their teacher sees in each."""

import torch
from drawing import FAINT, INK, STUDENT, context, digits_teacher, picture, plain, shares, tile

from doublure.core.protocols import Source
from doublure.core.seeding import from_seed
from doublure.sources.leaves import Leaves
from doublure.sources.noise import Noise
from doublure.sources.surrogate import Surrogate

COUNT, SHOWN = 1024, 4


def main() -> None:
    teacher = digits_teacher()
    sets: dict[str, Source] = {
        "the digits": Surrogate(data="builtin/digits"),
        "dead leaves": Leaves(),
        "noise": Noise(),
    }
    place = context(teacher.contract, COUNT)
    with picture("surrogate", 300) as figure:
        grid = figure.add_gridspec(len(sets), SHOWN + 1, width_ratios=(*[1] * SHOWN, 5.2))
        for row, (name, source) in enumerate(sets.items()):
            images = source.open(place, teacher, from_seed(0)).draw(0, None).images
            for i in range(SHOWN):
                ax = figure.add_subplot(grid[row, i])
                tile(ax, images[i])
                plain(ax)
                if i == 0:
                    ax.set_title(name, loc="left", pad=4)
            with torch.no_grad():
                share = shares(teacher(images).argmax(-1), 10)
            axes = figure.add_subplot(grid[row, SHOWN])
            axes.bar(range(10), [100 * value for value in share], 0.7, color=STUDENT)
            axes.axhline(10, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_xticks(range(10))
            axes.set_ylim(0, 100)
            axes.set_yticks([0, 50, 100], ["0", "50", "100 %"])
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_xlabel("what the teacher calls them")


if __name__ == "__main__":
    main()
