"""`demo`: the whole workflow on scikit-learn's digits, offline, in minutes on two cores.

A teacher is trained on 1 297 digits. Then four students of the same size learn from it with equal
steps: from shader images, from noise, from noise with the attack (a strong baseline on such a small
task), and from the digits themselves, which would not be available. The baselines train in a second
process at the same time. 500 digits that no network was trained on are the evaluation data. The
shader student is exported, also as int8, and reported.
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

# name, transfer set, and omitted parts of the recipe
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
    # The same number of threads: the order of sums affects their last bits.
    threads = (torch.get_num_threads(),)
    # One task only, so that the worker ends by itself if this process is killed.
    with ProcessPoolExecutor(
        1, spawn, torch.set_num_threads, threads, max_tasks_per_child=1
    ) as beside:
        learning = beside.submit(_learn, rivals, out, **given)
        say(f"student: {STUDENT} learns from its teacher and {ours[0]}")
        say(f"meanwhile, as its rivals: from {', '.join(name for name, *_ in rivals)}")
        try:
            arms = _learn([ours], out, **given, **told)
        except BaseException:
            # Terminate orphaned workers; the executor would block on them.
            for process in active_children():
                process.terminate()
            raise
        say("waiting for the rivals")
        arms += learning.result()
    return _scores(teacher), arms


def _learn(arms: Sequence[Arm], out: Path, **told: Any) -> list[dict[str, Any]]:
    """Return the scores of each arm's student."""
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
