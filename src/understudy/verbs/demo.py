"""`demo`: the whole sentence on scikit-learn's digits, offline, in minutes on two cores.

A teacher learns 1 297 digits. Then four students of the same size learn from it at equal steps:
from shader images, from noise, from noise with the attack (the honest rival on so small a task),
and from the digits themselves, which nobody would have. 500 digits that no network saw are the
judge. The shader student is exported, int8 included, and reported.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from understudy.run_folder import SUMMARY, write_json
from understudy.verbs.distill import distill
from understudy.verbs.export import export
from understudy.verbs.report import report
from understudy.verbs.train import train

DATA = "builtin/digits"
TEACHER, STUDENT = "builtin/convnet-32", "builtin/convnet-16"
TEACHER_STEPS, STEPS, BATCH = 800, 1500, 128

# name, what it is shown, and which parts of the recipe are left out
ARMS: tuple[tuple[str, str | None, tuple[str, ...]], ...] = (
    ("shader images", None, ()),
    ("noise", "noise", ("attack",)),
    ("noise and attack", "noise", ()),
    ("the real digits", DATA, ("balance", "attack")),
)


def demo(
    out: str | Path = "demo",
    *,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None,
) -> dict[str, Any]:
    """Run the demonstration in the folder `out` and return the summary of its shader student."""
    out = Path(out)
    teacher = out / "teacher"
    say(f"teacher: {TEACHER} learns {DATA}")
    told: dict[str, Any] = {"seed": seed, "overwrite": overwrite, "watch": watch}
    made = train(
        TEACHER, DATA, out=teacher, steps=TEACHER_STEPS, batch_size=BATCH, eval=DATA, **told
    )
    arms = [{"name": "teacher", **_scores(made)}]
    first = None
    for name, transfer, without in ARMS:
        folder = out / name.replace(" ", "-")
        say(f"student: {STUDENT} learns from its teacher and {name}")
        made = distill(
            str(teacher),
            STUDENT,
            out=folder,
            transfer=transfer,
            without=without,
            steps=STEPS,
            batch_size=BATCH,
            eval=DATA,
            **told,
        )
        first = first or folder
        arms.append({"name": name, **_scores(made)})
    assert first is not None
    summary: dict[str, Any] = json.loads((first / SUMMARY).read_text(encoding="utf-8"))
    summary["arms"] = arms
    write_json(first / SUMMARY, summary)
    say("export: ONNX and int8 ONNX, calibrated on shader images")
    export(str(first), format=("onnx", "int8-onnx"), out=first, eval=DATA)
    report(first).replace(out / "report.html")
    report(first)
    return summary


def _scores(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": summary["student_accuracy"],
        "correct": summary["student_correct"],
        "count": summary["accuracy_count"],
        "agreement": summary["agreement"],
        "seconds": summary["seconds"],
    }
