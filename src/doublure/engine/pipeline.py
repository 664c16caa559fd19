"""From a recipe to a run folder: load the networks, train stage by stage, write the results.

The order is guaranteed: the recipe is on disk before step 0, the student before its evaluation.
Evaluation, logging and checkpoints never affect the student's bytes.
"""

import contextlib
import copy
import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doublure.core.initialisation import Initialized
from doublure.core.optional import require
from doublure.core.protocols import EvaluationSource, parts_of
from doublure.core.seeding import child_seed, from_seed
from doublure.engine.budgeted_run import BudgetedRun, reserve
from doublure.engine.codec import Codec
from doublure.engine.dry_run import dry_run, weights_digest
from doublure.engine.forecast import forecast
from doublure.engine.label_space import compares_layers_alone
from doublure.engine.loading import rebuilds, resolve, save
from doublure.engine.model_transform import apply_transform, ensemble_of, member_of, network_of
from doublure.engine.plugins import Plugins
from doublure.engine.processes import ProcessGroup, process_group
from doublure.engine.programs import trace_program, write_program
from doublure.engine.recipe import Recipe, RecipeError, inputs_of
from doublure.engine.run_folder import (
    BEGINNING,
    RECIPE,
    RunFolder,
    write_json,
    write_whole,
)
from doublure.engine.run_options import RunOptions, find_device
from doublure.engine.stage_in_folder import train_in_folder
from doublure.engine.stage_opening import open_stage, stage_rng
from doublure.engine.summary import summarize
from doublure.engine.task import EvaluationData, FinishedRun, Task
from doublure.nets.features import device_of
from doublure.nets.network import Network

# Keys that do not affect the student's bytes: recipes that differ only here are one run.
FREE = ("eval", "fit.log_every")
LAYERS_ALONE = (
    "the objective compares layers only: nothing trains the student's classifier; "
    "add --objective soft-targets, or --labels and --objective hard-labels"
)
# Verbs whose student starts with the teacher's weights.
CHANGING = ("prune", "quantize", "continual")
# The recipe before budget planning, which --resume compares.
_ASKED_FOR = "asked.toml"


def run(recipe: Recipe, out: Path, options: RunOptions, plugins: Plugins) -> dict[str, Any]:
    """Run `recipe` in the folder `out` and return its summary.

    With several processes, the first one writes; the others return None.

    Raises:
        RunFolderError: the folder already exists, or cannot be written.
        RecipeError: `resume` finds another recipe there; the message has the keys.
        ValueError: a network or the data cannot be used; an earlier run is unchanged.
    """
    began = options.began or time.perf_counter()
    cpu = find_device(recipe.device).type == "cpu"
    with process_group(cpu=cpu) as processes, contextlib.closing(RunFolder(out)) as folder:
        return _run(recipe, folder, options, plugins, processes, began)


def _run(
    recipe: Recipe,
    folder: RunFolder,
    options: RunOptions,
    plugins: Plugins,
    processes: ProcessGroup,
    began: float,
) -> dict[str, Any]:
    recipe, saved = processes.broadcast(
        _find_recipe(recipe, folder, options, plugins.codec, processes)
    )
    asked = recipe
    plugins.codec.to_toml(recipe)  # which is better refused before the training
    notes: list[str] = []
    noting = dataclasses.replace(options, say=notes.append)
    teacher, student = open_networks(recipe, noting, plugins)
    task = plugins.task_of(student.contract)
    begun = apply_transform(recipe.stages[0], teacher, student, stage_rng(recipe, 0))
    evaluation_data, read = _evaluation_data(recipe, begun.contract, task, options)
    notes += read
    if compares_layers_alone(recipe.stages[-1].objective):
        notes.append(LAYERS_ALONE)
    budgeted: BudgetedRun | None = None
    if options.budget is not None and not saved:
        costs = task.judging_costs(recipe.stages[-1], teacher, begun, evaluation_data)
        spent = time.perf_counter() - began
        kept = reserve(options.budget, costs, spent, audit=options.audit)
        notes.append(kept.note)
        end = began + options.budget - kept.seconds
        options = dataclasses.replace(options, audit=kept.audit, compared=kept.compared)
        budgeted = BudgetedRun(recipe, end, processes, folder, plugins.codec)
        budgeted.plan(teacher, student)
        recipe = budgeted.recipe
    elif not saved and (expected := forecast(recipe, teacher, begun)) is not None:
        notes.append(expected)
    notes += [f"plan: {line}" for line in recipe.plan]
    opening = functools.partial(
        open_stage, rank=processes.rank, world=processes.world, scratch=folder.scratch
    )
    student = begun
    compared: list[str] = []
    train = opening(recipe.stages[0], teacher, student, stage_rng(recipe, 0), say=compared.append)
    if processes.first:
        options = _create_folder(
            recipe, asked, folder, options, plugins.codec, [*notes, *compared], saved=saved
        )
    train.note = functools.partial(_note_beginning, folder, options)
    processes.broadcast(None)  # wait until the folder exists
    taught_by = "" if teacher is None else weights_digest(teacher)
    results, members = [], []
    for i, stage in enumerate(recipe.stages):
        pacer = None if budgeted is None else budgeted.pacer(i, device_of(student))
        if i > 0:
            student = apply_transform(stage, teacher, student, stage_rng(recipe, i))
            said = len(compared)
            train = opening(stage, teacher, student, stage_rng(recipe, i), say=compared.append)
            train.note = functools.partial(_note_beginning, folder, options)
            for note in compared[said:] if processes.first else ():
                options.say(note)
        results.append(
            train_in_folder(train, i, stage.fit.steps, folder, options, processes, taught_by, pacer)
        )
        if stage.member:
            members.append(member_of(results[-1].network, student))
    if not processes.first:
        return {}
    trained = time.perf_counter()
    recipe = recipe if budgeted is None else budgeted.finish(options.say)
    made = ensemble_of(members) if members else network_of(results[-1].network, student)
    save(made, folder.path, tasks=plugins.tasks)
    if _travels_with_code(made):
        write_program(trace_program(made), made, folder.file("student.pt2"))
    finished = FinishedRun(
        recipe=recipe,
        folder=folder,
        teacher=teacher,
        student=made,
        evaluation_data=evaluation_data,
        terms=results[-1].terms,
        last=train.last,
        audit=options.audit,
        compared=options.compared,
        began=began,
        trained=trained,
    )
    paper = plugins.papers.get(recipe.method)
    summary = summarize(finished, results, task, compared=compared, paper=paper)
    folder.finish()
    return summary


def _find_recipe(
    recipe: Recipe,
    folder: RunFolder,
    options: RunOptions,
    codec: Codec,
    processes: ProcessGroup,
) -> tuple[Recipe, bool]:
    """Return the recipe to run, and whether it is resumed; nothing is written."""
    if options.tensorboard:
        require("torch.utils.tensorboard")
    if not processes.first or not folder.check(
        resume=options.resume, overwrite=options.overwrite, inputs=inputs_of(recipe)
    ):
        return recipe, False
    return _going_on(recipe, folder, options, codec), True


def _create_folder(
    recipe: Recipe,
    asked: Recipe,
    folder: RunFolder,
    options: RunOptions,
    codec: Codec,
    notes: Sequence[str],
    *,
    saved: bool,
) -> RunOptions:
    """Create the folder with the recipe, and return options that also write its log.

    Args:
        asked: the recipe before budget planning.
    """
    folder.begin(overwrite=options.overwrite)
    if not saved and options.budget is not None:
        write_whole(folder.scratch / _ASKED_FOR, codec.to_toml(asked))
    if not saved:
        write_whole(folder.file(RECIPE), codec.to_toml(recipe))
    say = folder.logging(options.say)
    if folder.earlier is not None:
        say(f"the earlier run waits in {folder.earlier} until this one is complete")
    for note in (*notes, f"{recipe.verb} {recipe.method}: {recipe.student.ref}"):
        say(note)
    return dataclasses.replace(options, say=say)


def open_networks(
    recipe: Recipe, options: RunOptions, plugins: Plugins
) -> tuple[Network[Any] | None, Network[Any]]:
    """Return the teacher, if there is one, and the student before its first step.

    Raises:
        ValueError: one of them cannot be loaded, called or saved; or they do not fit together.
    """
    device = find_device(recipe.device)
    made = dict(options.networks)
    if "teacher" not in made and recipe.teacher is not None:
        opened = resolve(recipe.teacher, allow_code=options.allow_code, tasks=plugins.tasks)
        for note in opened.notes:
            options.say(f"teacher: {note}")
        made["teacher"] = opened.network
    if recipe.verb in CHANGING:
        # The student trains even if a given teacher is frozen.
        made.setdefault("student", copy.deepcopy(made["teacher"]).requires_grad_())
    if "student" not in made:
        made["student"] = resolve(
            recipe.student,
            like=made["teacher"].contract if "teacher" in made else None,
            allow_code=options.allow_code,
            rng=from_seed(child_seed(recipe.seed, "student")),
            tasks=plugins.tasks,
        ).network
    for role, network in made.items():
        for note in dry_run(role, network, plugins.task_of(network.contract)):
            options.say(note)
        network.to(device)
    if "teacher" in made:
        _check_pair(made["teacher"].contract, made["student"].contract, recipe, plugins)
    if _travels_with_code(made["student"]):
        trace_program(made["student"])  # which is better refused before the training
    return made.get("teacher"), made["student"]


def _evaluation_data(
    recipe: Recipe, contract: Any, task: Task, options: RunOptions
) -> tuple[EvaluationData | None, list[str]]:
    """Return the evaluation data (as requested, or held out by a source), and notes."""
    if recipe.eval is not None:
        data = task.open_evaluation_data(recipe.eval, contract, skip_bad=options.skip_bad)
        return data, [f"--eval: {note}" for note in data.notes]
    for part in parts_of(recipe.stages[-1].source):
        kept = part.evaluation_data(contract) if isinstance(part, EvaluationSource) else None
        if kept is not None:
            return kept, [f"{len(kept)} {task.words.judged} are held out for evaluation"]
    return None, []


def _check_pair(teacher: Any, student: Any, recipe: Recipe, plugins: Plugins) -> None:
    task, other = plugins.task_of(teacher), plugins.task_of(student)
    if task.name != other.name:
        raise ValueError(
            f"the teacher {task.words.takes} ({task.name}), the student {other.words.takes} "
            f"({other.name}); a student learns the task of its teacher"
        )
    task.check_pair(teacher, student, own_label_space=recipe.own_label_space)


def _note_beginning(folder: RunFolder, options: RunOptions, made: Initialized) -> None:
    """Log the initialisation of the student, and store it for the summary."""
    errors = ", ".join(f"{name} {error:.3f}" for name, error in made.errors.items())
    for line in (made.how, *made.notes, f"relative errors: {errors}" if errors else ""):
        if line:
            options.say(f"beginning: {line}")
    told = {"how": made.how, "errors": dict(made.errors), "notes": list(made.notes)}
    write_json(folder.file(BEGINNING), told)


def _travels_with_code(student: Network[Any]) -> bool:
    """Return whether the architecture has no name that rebuilds it elsewhere."""
    return not rebuilds(student.reference) or student.reference.startswith("file:")


def _going_on(asked: Recipe, folder: RunFolder, options: RunOptions, codec: Codec) -> Recipe:
    saved = codec.read(folder.file(RECIPE))
    before_planning = folder.scratch / _ASKED_FOR
    planned = options.budget is not None and before_planning.exists()
    stood = codec.read(before_planning) if planned else saved
    if keys := codec.differing_keys(asked, stood, but=FREE):
        raise RecipeError(
            f"--resume, but the given recipe differs from the one in the folder in "
            f"{', '.join(keys)}; remove the option, or use another --out"
        )
    return dataclasses.replace(saved, eval=asked.eval or saved.eval)
