"""The terms of the loss while a digits network learns digits upside down as new classes."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
from drawing import FAINT, STUDENT, TEACHER, THIRD, digits_teacher, picture

from doublure import continual
from doublure.data.digits import digits

COLOURS = {"new_classes": STUDENT, "lwf": TEACHER, "rehearsal": THIRD}


def main() -> None:
    pixels, labels = digits("train")
    with TemporaryDirectory() as folder:
        data = Path(folder) / "more.npz"
        numpy.savez(data, x=numpy.asarray(pixels)[:, ::-1], y=labels.numpy() + 10)
        continual(
            digits_teacher(),
            str(data),
            out=Path(folder) / "run",
            transfer="noise",
            steps=200,
            batch_size=64,
            device="cpu",
            set={"log_every": "5"},
        )
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    with picture("continual", 200) as figure:
        axes = figure.subplots()
        for name, colour in COLOURS.items():
            axes.plot(
                [row["step"] for row in rows], [row[name] for row in rows], color=colour, label=name
            )
        axes.set_yscale("log")
        axes.set_xlabel("steps")
        axes.set_ylabel("term")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(loc="upper right", ncols=3)


if __name__ == "__main__":
    main()
