"""Answers flipped by layer and bits: a digits network, and the same function with a fault."""

import copy

import torch
from drawing import INK, context, digits_teacher, picture

from doublure.audits.worst_case_quantization import WorstCaseQuantization, find_worst_case
from doublure.core.seeding import from_seed
from doublure.sources.surrogate import Surrogate

SETTINGS = WorstCaseQuantization(bits=(3, 4, 5, 6, 8), policies=5, trials=5)
GAIN = 64.0


def main() -> None:
    teacher = digits_teacher()
    planted = copy.deepcopy(teacher)
    layers = [m for m in planted.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in planted.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        norms[0].weight[0] *= GAIN
        norms[0].bias[0] *= GAIN
        layers[1].weight[:, 0] /= GAIN
    stream = Surrogate(data="builtin/digits").open(
        context(teacher.contract, 256), teacher, from_seed(0)
    )
    images = stream.draw(0, None).images
    with picture("worst_case_quantization", 200, colours=128) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for part, network in zip(axes, (teacher, planted), strict=True):
            found = find_worst_case(network, images, SETTINGS, from_seed(0))
            flips = torch.tensor([list(layer.flips.values()) for layer in found.layers])
            part.imshow(flips, cmap="Blues", vmin=0, vmax=0.5, aspect="auto")
            for row, shares in enumerate(flips.tolist()):
                for column, share in enumerate(shares):
                    colour = "white" if share > 0.25 else INK
                    told = f"{share:.0%}"
                    part.text(column, row, told, ha="center", va="center", color=colour, size=8)
            part.set_xticks(range(len(SETTINGS.bits)), [str(bits) for bits in SETTINGS.bits])
            part.set_yticks(range(len(found.layers)), [layer.name for layer in found.layers])
            part.set_xlabel("bits of the layer's inputs")


if __name__ == "__main__":
    main()
