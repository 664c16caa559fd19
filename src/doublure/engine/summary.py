"""The summary of a finished run, and the basis of each number.

The task computes its own part (scores, agreement). A report is made from the files written here.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from doublure.engine.fit import FitResult
from doublure.engine.manifest import run_manifest
from doublure.engine.recipe import Recipe, inputs_of
from doublure.engine.run_folder import BEGINNING, SUMMARY, RunFolder, write_json
from doublure.engine.task import FinishedRun, Task
from doublure.nets.features import device_of
from doublure.nets.network import Network, count_parameters
from doublure.nets.quantized import is_quantized
from doublure.nets.rounded_share import rounded_share


def summarize(
    run: FinishedRun,
    results: Sequence[FitResult],
    task: Task,
    *,
    compared: Sequence[str] = (),
    paper: str | None = None,
) -> dict[str, Any]:
    """Evaluate the student, write the results into the run's folder, and return the summary.

    Args:
        results: results of its stages.
        compared: notes of the objectives before the first step.
        paper: citation of its method.
    """
    recipe, final = run.recipe, run.recipe.stages[-1]
    seconds = sum(part.seconds for part in results)
    summary: dict[str, Any] = {
        "task": task.name,
        "words": asdict(task.words),
        "verb": recipe.verb,
        "method": recipe.method,
        "paper": paper,
        "teacher_reference": None if recipe.teacher is None else recipe.teacher.ref,
        "student_reference": recipe.student.ref,
        "steps": sum(part.steps for part in results),
        "batch_size": final.fit.batch_size,
        "seconds": seconds,
        "images_per_second": sum(part.images for part in results) / max(seconds, 1e-9),
        "final_terms": run.terms,
        "totals": {name: value for part in results for name, value in part.totals.items()},
        "seed": recipe.seed,
        "compared": list(compared),
        "plan": list(recipe.plan),
        "beginning": _beginning(run.folder),
    }
    for role, network in (("teacher", run.teacher), ("student", run.student)):
        summary[f"{role}_parameters"] = None if network is None else count_parameters(network)
    rounded = rounded_share(run.student.body) if is_quantized(run.student) else None
    summary["quantization"] = None if rounded is None else rounded.to_json()
    own = task.summarize(run)
    warned = [] if rounded is None or not rounded.warning else [rounded.warning]
    summary |= own | {"warnings": [*_warnings(results), *warned, *own.get("warnings", ())]}
    summary["seconds_to_prepare"] = max(run.trained - run.began - seconds, 0.0)
    summary["seconds_to_judge"] = time.perf_counter() - run.trained
    write_json(run.folder.file("manifest.json"), _manifest(recipe, run.student))
    write_json(run.folder.file(SUMMARY), summary)
    return summary


def _beginning(folder: RunFolder) -> Any:
    """Return the initialisation of the student, if there was one."""
    return folder.read_json(BEGINNING) if folder.file(BEGINNING).exists() else None


def _manifest(recipe: Recipe, student: Network[Any]) -> dict[str, Any]:
    return run_manifest(
        seeds={"run": recipe.seed},
        inputs=inputs_of(recipe),
        device=device_of(student),
        command=sys.argv,
    )


def _warnings(results: Sequence[FitResult]) -> list[str]:
    restarts = [part.terms.get("metrics", {}).get("generator_restarts", 0) for part in results]
    if any(restarts):
        return ["The generator collapsed during training and was re-initialised."]
    return []
