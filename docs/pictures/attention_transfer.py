"""Where teacher and student look at the end of each stage."""

from drawing import compared, digits_pair, matrix, picture, tile

from doublure.core.protocols import image_batch
from doublure.objectives.attention_transfer import AttentionTransfer, attention_map


def main() -> None:
    teacher, student, images, _ = digits_pair()
    loss, ours, theirs = compared(AttentionTransfer(), student, teacher, image_batch(images))
    pairs = loss.read(ours, theirs)
    with picture("attention_transfer", 270, colours=64) as figure:
        grid = figure.subplots(2, 4)
        for row, side, who in ((grid[0], 1, "teacher"), (grid[1], 0, "student")):
            tile(row[0], images[0], "image" if who == "teacher" else "")
            for stage, (axes, maps) in enumerate(zip(row[1:], pairs, strict=True), 1):
                matrix(axes, attention_map(maps[side][:1], 2.0)[0, 0], f"{who}, stage {stage}")


if __name__ == "__main__":
    main()
