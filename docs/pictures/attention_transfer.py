"""Where teacher and student look at the end of each stage."""

from drawing import compared, digits_pair, matrix, picture, tile

from understudy.objectives.attention_transfer import AttentionTransfer, attention_map
from understudy.protocols import image_batch


def main() -> None:
    teacher, student, images, _ = digits_pair()
    criterion, ours, theirs = compared(AttentionTransfer(), student, teacher, image_batch(images))
    with picture("attention_transfer", 270, colours=64) as figure:
        grid = figure.subplots(2, 4)
        for row, trace, who in ((grid[0], theirs, "teacher"), (grid[1], ours, "student")):
            tile(row[0], images[0], "image" if who == "teacher" else "")
            taps = criterion.taps.teacher if who == "teacher" else criterion.taps.student
            for axes, name in zip(row[1:], taps, strict=True):
                matrix(axes, attention_map(trace.taps[name][:1], 2.0)[0, 0], f"{who}, {name}")


if __name__ == "__main__":
    main()
