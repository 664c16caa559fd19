"""What the student of `doublure demo` was shown, and what it reads in digits it never saw.

doublure demo
python docs/pictures/readme.py [demo]
"""

import sys
from pathlib import Path

import numpy
import torch
from drawing import INK, THIRD, picture, tile

from doublure.data.datasets import open_data
from doublure.nets.network import freeze
from doublure.networks import load

COLUMNS, ROWS = 6, 3
WRONG = "#d2552f"


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "demo") / "shader-images"
    with numpy.load(run / "samples.npz") as samples:
        shown = torch.from_numpy(samples["images"]).permute(0, 3, 1, 2) / 255
        answers = torch.from_numpy(samples["teacher"])
    student = load(str(run))
    digits = open_data("builtin/digits", student.contract, split="test", labels=True)
    places = torch.linspace(0, len(digits) - 1, COLUMNS * ROWS).long()
    images = digits.images(places) / 255
    with torch.no_grad():
        read = freeze(student)(images).argmax(-1)
    assert digits.labels is not None
    right = read == digits.labels[places]
    with picture("readme", 235) as figure:
        left, beside = figure.subfigures(1, 2, wspace=0.06)
        left.suptitle("shown: shader images", color=INK, size=10.5)
        for axes, image, answer in zip(
            left.subplots(ROWS, COLUMNS).flat, shown, answers, strict=False
        ):
            tile(axes, image, below=f"{answer.argmax()}")
        left.supxlabel("below: what the teacher says", color=INK, size=9.5)
        beside.suptitle("never shown: digits", color=INK, size=10.5)
        cells = zip(beside.subplots(ROWS, COLUMNS).flat, images, read, right, strict=True)
        for axes, image, digit, is_right in cells:
            tile(axes, image, below=f"{digit}")
            axes.xaxis.label.set_color(THIRD if is_right else WRONG)
        beside.supxlabel("below: what the student reads", color=INK, size=9.5)


if __name__ == "__main__":
    main()
