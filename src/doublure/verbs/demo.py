"""`demo`: the whole sentence on scikit-learn's digits, offline, in minutes on two cores.

A teacher learns 1 297 digits. Then four students of the same size learn from it at equal steps:
from shader images, from noise, from noise with the attack (the honest rival on so small a task),
and from the digits themselves, which nobody would have. The rivals learn in a process of their own
meanwhile. 500 digits that no network saw are the judge. The shader student is exported, int8
included, and reported.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch

from doublure.engine.run_folder import SUMMARY, write_json, write_whole
from doublure.verbs.distill import distill
from doublure.verbs.export import export
from doublure.verbs.report import report
from doublure.verbs.train import train

DATA = "builtin/digits"
TEACHER, STUDENT = "builtin/convnet-32", "builtin/convnet-16"
TEACHER_STEPS, STEPS, BATCH = 800, 1500, 128

# name, what it is shown, and which parts of the recipe are left out
Arm = tuple[str, str | None, tuple[str, ...]]
ARMS: tuple[Arm, ...] = (
    ("shader images", None, ()),
    ("noise", "noise", ("attack",)),
    ("noise and attack", "noise", ()),
    ("the real digits", DATA, ("matching", "balance", "attack")),
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
    teacher, arms = run_arms(out, seed=seed, overwrite=overwrite, say=say, watch=watch)
    shown = out / _folder(ARMS[0][0])
    summary: dict[str, Any] = json.loads((shown / SUMMARY).read_text(encoding="utf-8"))
    summary["arms"] = arms
    write_json(shown / SUMMARY, summary)
    say("export: ONNX, and int8 ONNX calibrated on shader images")
    export(str(shown), format=("onnx", "int8-onnx"), out=shown, eval=DATA)
    write_whole(out / "report.html", report(shown).read_bytes())
    return summary | {"teacher": teacher}


def run_arms(
    out: Path,
    *,
    seed: int,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train the teacher and a student of every arm; return the scores of each."""
    given: dict[str, Any] = {"seed": seed, "overwrite": overwrite}
    given |= {"batch_size": BATCH, "eval": DATA}
    told: dict[str, Any] = {"say": say, "watch": watch}
    say(f"teacher: {TEACHER} learns {DATA}")
    teacher = train(TEACHER, DATA, out=out / "teacher", steps=TEACHER_STEPS, **given, **told)
    ours, *rivals = ARMS
    spawn = get_context("spawn")
    # As many threads as here: how sums are split among them decides their last bits.
    threads = (torch.get_num_threads(),)
    # Of one task, so that it ends by itself should this process be killed.
    with ProcessPoolExecutor(
        1, spawn, torch.set_num_threads, threads, max_tasks_per_child=1
    ) as beside:
        learning = beside.submit(_learn, rivals, out, **given)
        say(f"student: {STUDENT} learns from its teacher and {ours[0]}")
        say(f"meanwhile, as its rivals: from {', '.join(name for name, *_ in rivals)}")
        try:
            arms = _learn([ours], out, **given, **told)
        except BaseException:
            # Rivals of nobody; the executor would wait until they are done.
            for process in active_children():
                process.terminate()
            raise
        say("waiting for the rivals")
        arms += learning.result()
    return _scores(teacher), arms


def _learn(arms: Sequence[Arm], out: Path, **told: Any) -> list[dict[str, Any]]:
    """Return the scores of the student of each arm."""
    scores = []
    for name, transfer, without in arms:
        made = distill(
            str(out / "teacher"),
            STUDENT,
            out=out / _folder(name),
            method="shader-kd",
            transfer=transfer,
            without=without,
            steps=STEPS,
            audit=name == ARMS[0][0],
            **told,
        )
        scores.append({"name": name, **_scores(made)})
    return scores


def _folder(arm: str) -> str:
    return arm.replace(" ", "-")


def _scores(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": summary["student_accuracy"],
        "correct": summary["student_correct"],
        "count": summary["accuracy_count"],
        "agreement": summary["agreement"],
        "seconds": summary["seconds"],
    }
