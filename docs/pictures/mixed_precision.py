"""How much a digits network minds few bits, layer by layer."""

import torch
from drawing import INK, context, digits_teacher, picture

from doublure.compress.post_training_quantization import PostTrainingQuantization
from doublure.compress.sensitivity import measure_sensitivity
from doublure.core.seeding import from_seed
from doublure.sources.surrogate import Surrogate

BITS = (2, 3, 4, 5, 6, 8)


def main() -> None:
    teacher = digits_teacher()
    stream = Surrogate(data="builtin/digits").open(
        context(teacher.contract, 128), teacher, from_seed(0)
    )
    found = measure_sensitivity(
        teacher, stream.draw(0, None).images, BITS, PostTrainingQuantization()
    )
    harm = found.divergence.clamp(min=1e-6).log10()
    with picture("mixed_precision", 240) as figure:
        axes = figure.subplots()
        axes.imshow(harm, cmap="Blues", aspect="auto")
        for (row, column), value in zip(
            torch.cartesian_prod(torch.arange(len(found.layers)), torch.arange(len(BITS))).tolist(),
            found.divergence.flatten().tolist(),
            strict=True,
        ):
            dark = harm[row, column] > harm.mean() + 0.5
            colour = "white" if dark else INK
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", color=colour, size=8)
        axes.set_xticks(range(len(BITS)), [str(width) for width in BITS])
        axes.set_yticks(range(len(found.layers)), found.layers)
        axes.set_xlabel("bits of the layer's weights and inputs")


if __name__ == "__main__":
    main()
