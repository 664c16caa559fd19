"""What can be said of a finished run, and how each figure is known.

Accuracy is measured, and only on labelled data that were handed over for it. Without them there is
agreement: the share of held-out transfer images, never shown to the student, that student and
teacher call the same; a proxy. The files written here are what a report is made of.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any

from doublure.core.protocols import Batch, SourceOnDisk, TextContract, parts_of
from doublure.data.datasets import Dataset
from doublure.engine.fit import FitResult
from doublure.engine.manifest import run_manifest
from doublure.engine.recipe import Recipe
from doublure.engine.run_folder import BEGINNING, SUMMARY, RunFolder, write_json
from doublure.nets.features import device_of
from doublure.nets.network import Network, count_parameters
from doublure.tasks.classification.summary import summarize_images
from doublure.tasks.translation.parallel_text import ParallelText
from doublure.tasks.translation.summary import summarize_translation


def summarize(
    recipe: Recipe,
    folder: RunFolder,
    results: Sequence[FitResult],
    teacher: Network[Any] | None,
    student: Network[Any],
    evaluation_data: Dataset | ParallelText | None,
    *,
    audit: bool,
    compared: Sequence[str] = (),
    last: Batch | None = None,
    paper: str | None = None,
) -> dict[str, Any]:
    """Judge the student, write what was found into the run's folder, and return the summary.

    Args:
        evaluation_data: labelled data to score on.
        compared: what the objectives told before the first step.
        last: what the student was shown last; None where this call only found it trained.
        paper: what its method is cited as.
        audit: whether the transfer set is scored, too, a search for images followed, and a network
            that was made smaller timed.
    """
    final, result = recipe.stages[-1], results[-1]
    seconds = sum(part.seconds for part in results)
    summary: dict[str, Any] = {
        "verb": recipe.verb,
        "method": recipe.method,
        "paper": paper,
        "teacher_reference": None if recipe.teacher is None else recipe.teacher.ref,
        "student_reference": recipe.student.ref,
        "steps": sum(part.steps for part in results),
        "batch_size": final.fit.batch_size,
        "seconds": seconds,
        "images_per_second": sum(part.images for part in results) / max(seconds, 1e-9),
        "final_terms": result.terms,
        "seed": recipe.seed,
        "compared": list(compared),
        "plan": list(recipe.plan),
        "beginning": _beginning(folder),
        "warnings": _warnings(results, student.contract.classes),
    }
    for role, network in (("teacher", teacher), ("student", student)):
        summary[f"{role}_parameters"] = None if network is None else count_parameters(network)
    if isinstance(student.contract, TextContract):
        assert not isinstance(evaluation_data, Dataset)
        summary |= summarize_translation(final, recipe.seed, teacher, student, evaluation_data)
    else:
        assert not isinstance(evaluation_data, ParallelText)
        summary |= summarize_images(
            recipe, folder, teacher, student, evaluation_data, last=last, audit=audit
        )
    write_json(folder.file("manifest.json"), _manifest(recipe, student))
    write_json(folder.file(SUMMARY), summary)
    return summary


def _beginning(folder: RunFolder) -> Any:
    """Return how the student's weights began, where they were not left as they were."""
    return folder.read_json(BEGINNING) if folder.file(BEGINNING).exists() else None


def _manifest(recipe: Recipe, student: Network[Any]) -> dict[str, Any]:
    references = [part for part in (recipe.teacher, recipe.student) if part is not None]
    named = [name for part in references for name in (part.ref, part.weights)]
    for part in (part for stage in recipe.stages for part in parts_of(stage.source)):
        named += part.paths if isinstance(part, SourceOnDisk) else ()
    return run_manifest(
        seeds={"run": recipe.seed},
        inputs=[name for name in (*named, recipe.eval) if name is not None],
        device=device_of(student),
        command=sys.argv,
    )


def _warnings(results: Sequence[FitResult], classes: int) -> list[str]:
    told = []
    restarts = [part.terms.get("metrics", {}).get("generator_restarts", 0) for part in results]
    if any(restarts):
        told.append("The generator collapsed while the student learnt, and was started afresh.")
    if results[-1].terms.get("hard_labels", 0.0) > math.log(classes):
        told.append(
            "At the end the loss against the labels was above that of guessing; train longer, "
            "lower --lr, or, without BatchNorm, try --set fit.optimizer=adamw --lr 0.001."
        )
    return told
