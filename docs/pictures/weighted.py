"""The terms of a weighted sum while a student learns: each keeps its name and its curve."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from drawing import FAINT, STUDENT, THIRD, digits_teacher, picture

from doublure import distill
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import Weighted

OBJECTIVE = Weighted(terms=((0.9, SoftTargets(temperature=4.0)), (0.1, HardLabels(of="teacher"))))
COLOURS = {"soft_targets": STUDENT, "hard_labels": THIRD}


def main() -> None:
    teacher = digits_teacher()
    with TemporaryDirectory() as folder:
        distill(
            teacher,
            "builtin/convnet-6",
            out=Path(folder) / "run",
            method="shader-kd",
            transfer="noise",
            without=("balance", "attack", "augmentation"),
            objective=OBJECTIVE,
            steps=400,
            batch_size=64,
            device="cpu",
            precision="float32",
            set={"log_every": "10"},
        )
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    with picture("weighted", 200) as figure:
        axes = figure.subplots()
        for name, colour in COLOURS.items():
            values = [row[name] for row in rows]
            axes.plot([row["step"] for row in rows], values, color=colour, label=name)
        axes.set_yscale("log")
        axes.set_xlabel("steps")
        axes.set_ylabel("weighted term")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(loc="upper right", ncols=3)


if __name__ == "__main__":
    main()
