"""The inputs of a layer, and the grids of four bits that two clips lay over them."""

from drawing import FAINT, STUDENT, TEACHER, THIRD, context, digits_teacher, picture

from doublure.compress.activation_ranges import input_histograms, mse_range, observed_ranges
from doublure.core.seeding import from_seed
from doublure.nets.rounding import affine
from doublure.sources.surrogate import Surrogate

BITS = 4


def main() -> None:
    teacher = digits_teacher()
    stream = Surrogate(data="builtin/digits").open(
        context(teacher.contract, 256), teacher, from_seed(0)
    )
    images = [stream.draw(0, None).images]
    seen = observed_ranges(teacher, ["conv2"], images)
    histogram = input_histograms(teacher, seen, images)["conv2"]
    clips = {
        "range seen": (seen["conv2"], TEACHER),
        "least error": (mse_range(histogram, BITS, affine), THIRD),
    }
    with picture("post_training_quantization", 220) as figure:
        axes = figure.subplots()
        axes.fill_between(
            histogram.centres.numpy(),
            histogram.counts.clamp(min=0.5).numpy(),
            0.5,
            color=STUDENT,
            alpha=0.5,
        )
        for height, (name, (ends, colour)) in enumerate(clips.items()):
            scale, zero_point = affine(*ends, BITS)
            grid = [(n - zero_point) * scale for n in range(2**BITS)]
            axes.plot(
                grid, [3.0 * 4**height] * len(grid), "|", color=colour, markersize=14, label=name
            )
        axes.set_yscale("log")
        axes.set_xlabel("input of the second convolution")
        axes.set_ylabel("how often")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(loc="upper right")


if __name__ == "__main__":
    main()
