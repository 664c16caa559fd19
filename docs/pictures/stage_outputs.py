"""A channel of each stage of the teacher, what the student makes of it, and how far off it is."""

import torch
from drawing import compared, digits_pair, matrix, picture, tile

from doublure.core.protocols import image_batch
from doublure.nets.adapters import to_smaller
from doublure.objectives.stage_outputs import StageOutputs, relative_error


def main() -> None:
    teacher, student, images, _ = digits_pair()
    loss, ours, theirs = compared(StageOutputs(), student, teacher, image_batch(images), steps=300)
    stages = zip(loss.read(ours, theirs), loss.adapters, strict=True)
    with picture("stage_outputs", 230, colours=64) as figure:
        grid = figure.subplots(2, 4)
        tile(grid[0, 0], images[0], "image")
        grid[1, 0].set_axis_off()
        for stage, ((one, other), adapter) in enumerate(stages, 1):
            with torch.no_grad():
                seen, taught = to_smaller(one, other)
                regressed = adapter(seen)
            channel = int(taught[0].var((1, 2)).argmax())
            matrix(grid[0, stage], taught[0, channel], f"teacher, stage {stage}")
            error = relative_error(regressed, taught)
            matrix(grid[1, stage], regressed[0, channel], "student", f"relative error {error:.2f}")


if __name__ == "__main__":
    main()
