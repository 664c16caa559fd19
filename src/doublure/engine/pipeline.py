"""Recipe in, run folder out: open the networks, train stage by stage, then write it all down.

The order is the promise: the recipe is on disk before step 0, the student before anything is said
about it. Evaluation, logging and checkpoints never touch what the student's bytes depend on.
"""

import contextlib
import copy
import dataclasses
import errno
import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from doublure.catalogue import compares_layers_alone
from doublure.core.initialisation import Initialized
from doublure.core.optional import require
from doublure.core.protocols import TextContract
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, open_data
from doublure.engine import recipe as recipe_file
from doublure.engine.changes import changed, network_of
from doublure.engine.dry_run import check_pair, rehearse, weights_digest
from doublure.engine.fit import Journal as Watcher
from doublure.engine.fit import Outcome
from doublure.engine.loading import rebuilds, resolve, save
from doublure.engine.planning import seconds_to_answer, within_budget
from doublure.engine.processes import Team, team
from doublure.engine.programs import trace_program, write_program
from doublure.engine.recipe import Recipe, RecipeError
from doublure.engine.run_folder import (
    BEGINNING,
    MAKE_ROOM,
    RECIPE,
    FolderKeeper,
    Journal,
    RunFolder,
    RunFolderError,
    TensorBoard,
    write_json,
    write_whole,
)
from doublure.engine.stage_opening import open_stage, stage_rng
from doublure.engine.summary import summarize
from doublure.nets.network import Network
from doublure.tasks.translation.parallel_text import ParallelText, open_text

# What does not decide the student's bytes: two recipes that differ only here are one run.
FREE = ("eval", "fit.log_every")
LAYERS_ALONE = (
    "the objective compares layers alone: nothing trains the student's classifier; "
    "add --objective soft-targets, or --labels and --objective hard-labels"
)
# The verbs whose student starts as its teacher.
CHANGING = ("prune", "quantize", "continual")
# The recipe as it was before a budget was planned, which --resume compares.
_ASKED_FOR = "asked.toml"
# Images on which networks are compared for the report.
_JUDGED = 4096
# Of a budget, at most so much is kept for that.
_JUDGING_SHARE = 0.25
# Seconds for what a report takes beside, drawing images and writing the page among it.
_REPORTING = 8.0


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a run is carried out, as opposed to what it is.

    Args:
        budget: seconds that become steps, once; None where the recipe says the steps.
        networks: networks made in Python, in place of the recipe's references, by role.
        skip_bad: leave unreadable files of the data to score on out, instead of raising.
        say: is told lines worth a person's eye.
        watch: is told the number of steps and each line of the journal.
        checkpoint_seconds: time between two checkpoints.
        tensorboard: also write the journal for TensorBoard.
        audit: whether the transfer set is scored, or its search followed, for the report.
    """

    resume: bool = False
    overwrite: bool = False
    budget: float | None = None
    allow_code: bool | Collection[str | Path] = False
    networks: Mapping[str, Network[Any]] = field(default_factory=dict)
    skip_bad: bool = False
    say: Callable[[str], None] = lambda _: None
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False
    audit: bool = True


def run(recipe: Recipe, out: Path, conduct: Conduct) -> dict[str, Any]:
    """Carry out `recipe` in the folder `out` and return its summary.

    Of several processes the first one writes; the others return nothing.

    Raises:
        RunFolderError: the folder is in the way, or cannot be written.
        RecipeError: `resume` finds another recipe there; the message names the keys.
        ValueError: a network or the data cannot be used; an earlier run is as it was.
    """
    began = time.perf_counter()
    cpu = device_named(recipe.device).type == "cpu"
    with team(cpu=cpu) as processes, contextlib.closing(RunFolder(out)) as folder:
        return _run(recipe, folder, conduct, processes, began)


def _run(
    recipe: Recipe, folder: RunFolder, conduct: Conduct, processes: Team, began: float
) -> dict[str, Any]:
    recipe, saved = processes.agree(_looked_up(recipe, folder, conduct, processes))
    asked = recipe
    notes: list[str] = []
    teacher, student = open_networks(recipe, dataclasses.replace(conduct, say=notes.append))
    begun = changed(recipe.stages[0], teacher, student, stage_rng(recipe, 0))
    judges = None if recipe.eval is None else open_judges(recipe.eval, begun, conduct)
    if judges is not None:
        notes += [f"--eval: {note}" for note in judges.notes]
    if compares_layers_alone(recipe.stages[-1].objective):
        notes.append(LAYERS_ALONE)
    if conduct.budget is not None and not saved:
        after = min(seconds_to_judge(teacher, begun, judges), _JUDGING_SHARE * conduct.budget)
        left = conduct.budget - after - (time.perf_counter() - began)
        recipe = processes.agree(within_budget(recipe, teacher, student, left, processes))
        notes.append(
            f"budget {conduct.budget:.0f} s, {after:.0f} of them to judge and report: "
            f"{sum(stage.fit.steps for stage in recipe.stages):,} steps"
        )
    notes += [f"plan: {line}" for line in recipe.plan]
    opening = functools.partial(
        open_stage, rank=processes.rank, world=processes.world, scratch=folder.scratch
    )
    student = begun
    compared: list[str] = []
    train = opening(recipe.stages[0], teacher, student, stage_rng(recipe, 0), say=compared.append)
    if processes.first:
        conduct = _begun(recipe, asked, folder, conduct, [*notes, *compared], saved=saved)
    train.note = functools.partial(_note_beginning, folder, conduct)
    processes.agree(None)  # nobody goes on before the folder stands
    taught_by = "" if teacher is None else weights_digest(teacher)
    outcomes = []
    for i, stage in enumerate(recipe.stages):
        if i > 0:
            student = changed(stage, teacher, student, stage_rng(recipe, i))
            said = len(compared)
            train = opening(stage, teacher, student, stage_rng(recipe, i), say=compared.append)
            train.note = functools.partial(_note_beginning, folder, conduct)
            for note in compared[said:] if processes.first else ():
                conduct.say(note)
        outcomes.append(
            train_in_folder(train, i, stage.fit.steps, folder, conduct, processes, taught_by)
        )
    if not processes.first:
        return {}
    made = network_of(outcomes[-1].network, student)
    save(made, folder.path)
    if _travels_with_code(made):
        write_program(trace_program(made), made, folder.file("student.pt2"))
    return summarize(
        recipe,
        folder,
        outcomes,
        teacher,
        made,
        judges,
        compared=compared,
        last=train.last,
        audit=conduct.audit,
    )


def _looked_up(
    recipe: Recipe, folder: RunFolder, conduct: Conduct, processes: Team
) -> tuple[Recipe, bool]:
    """Return the recipe to carry out, and whether it is one to go on with; nothing is written."""
    if conduct.tensorboard:
        require("torch.utils.tensorboard")
    if not processes.first or not folder.check(resume=conduct.resume, overwrite=conduct.overwrite):
        return recipe, False
    return _going_on(recipe, folder, conduct), True


def _begun(
    recipe: Recipe,
    asked: Recipe,
    folder: RunFolder,
    conduct: Conduct,
    notes: Sequence[str],
    *,
    saved: bool,
) -> Conduct:
    """Make the folder, with the recipe, and return the conduct that also writes its log.

    Args:
        asked: the recipe before a budget was planned.
    """
    folder.begin(overwrite=conduct.overwrite)
    if not saved and conduct.budget is not None:
        write_whole(folder.scratch / _ASKED_FOR, recipe_file.to_toml(asked))
    if not saved:
        write_whole(folder.file(RECIPE), recipe_file.to_toml(recipe))
    say = folder.logging(conduct.say)
    for note in (*notes, f"{recipe.verb} {recipe.method}: {recipe.student.ref}"):
        say(note)
    return dataclasses.replace(conduct, say=say)


def open_judges(spec: str, student: Network[Any], conduct: Conduct) -> Dataset | ParallelText:
    """Return the data to score on: labelled images, or sentences with references."""
    contract = student.contract
    if isinstance(contract, TextContract):
        require("sacrebleu")  # which is better missed now than after the training
        return open_text(spec, split="test", languages=contract.languages)
    return open_data(spec, contract, split="test", labels=True, skip_bad=conduct.skip_bad)


def open_networks(recipe: Recipe, conduct: Conduct) -> tuple[Network[Any] | None, Network[Any]]:
    """Return the teacher, where there is one, and the student before its first step.

    Raises:
        ValueError: one of them cannot be loaded, answered, or kept; or they do not fit together.
    """
    device = device_named(recipe.device)
    made = dict(conduct.networks)
    if "teacher" not in made and recipe.teacher is not None:
        opened = resolve(recipe.teacher, allow_code=conduct.allow_code)
        for note in opened.notes:
            conduct.say(f"teacher: {note}")
        made["teacher"] = opened.network
    if recipe.verb in CHANGING:
        # A teacher that was handed over frozen has a student that learns all the same.
        made.setdefault("student", copy.deepcopy(made["teacher"]).requires_grad_())
    if "student" not in made:
        made["student"] = resolve(
            recipe.student,
            like=made["teacher"].contract if "teacher" in made else None,
            allow_code=conduct.allow_code,
            rng=from_seed(child_seed(recipe.seed, "student")),
        ).network
    for role, network in made.items():
        for note in rehearse(role, network):
            conduct.say(note)
        network.to(device)
    if "teacher" in made:
        check_pair(made["teacher"].contract, made["student"].contract, own=recipe.own_classes)
    if _travels_with_code(made["student"]):
        trace_program(made["student"])  # which is better refused now than after the training
    return made.get("teacher"), made["student"]


def device_named(name: str) -> torch.device:
    """Return the device of a name; "auto" is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device '{name}'; use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device '{name}' asked for, but torch sees no CUDA device; use cpu")
    return device


def _note_beginning(folder: RunFolder, conduct: Conduct, made: Initialized) -> None:
    """Say how the student's weights began, and keep it for the summary."""
    errors = ", ".join(f"{name} {error:.3f}" for name, error in made.errors.items())
    for line in (made.how, *made.notes, f"relative errors: {errors}" if errors else ""):
        if line:
            conduct.say(f"beginning: {line}")
    told = {"how": made.how, "errors": dict(made.errors), "notes": list(made.notes)}
    write_json(folder.file(BEGINNING), told)


def seconds_to_judge(
    teacher: Network[Any] | None, student: Network[Any], judges: Dataset | ParallelText | None
) -> float:
    """Return about how long it takes to judge the student and to write the report."""
    if isinstance(student.contract, TextContract):
        return _REPORTING
    asked = [seconds_to_answer(net) for net in (student, teacher) if net is not None]
    return _REPORTING + (_JUDGED + (0 if judges is None else len(judges))) * sum(asked)


def train_in_folder(
    train: Callable[..., Outcome],
    stage: int,
    steps: int,
    folder: RunFolder,
    conduct: Conduct,
    processes: Team,
    taught_by: str,
) -> Outcome:
    """Carry out one stage's training with checkpoints and a journal in the run's folder.

    Args:
        train: is called with a keeper and a journal.
        taught_by: tells what the stage rests on; its checkpoint goes back to the same only.
    """
    together = max(1, steps // 20) if processes.world > 1 else None
    keeper = FolderKeeper(
        folder,
        stage,
        seconds=conduct.checkpoint_seconds,
        steps=together,
        rank=processes.rank,
        world=processes.world,
        gather=processes.gather,
        taught_by=taught_by,
    )
    if not processes.first:
        return train(keeper=keeper)
    state = keeper.load()
    step = 0 if state is None else state["step"]
    if state is not None:
        conduct.say(f"going on from step {step} of {steps}")
    with contextlib.ExitStack() as stack:
        journals: list[Watcher] = [stack.enter_context(Journal(folder, stage, after_step=step))]
        if conduct.tensorboard:
            journals.append(stack.enter_context(TensorBoard(folder, stage, after_step=step)))

        def journal(line: dict[str, Any]) -> None:
            for told in journals:
                told(line)
            conduct.watch(steps, line)

        try:
            return train(keeper=keeper, journal=journal)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise RunFolderError(  # from a source that keeps its images there
                f"cannot write into {folder.scratch}: {error.strerror}; {MAKE_ROOM}"
            ) from error


def _travels_with_code(student: Network[Any]) -> bool:
    """Return whether no name makes the architecture again elsewhere."""
    return not rebuilds(student.reference) or student.reference.startswith("file:")


def _going_on(asked: Recipe, folder: RunFolder, conduct: Conduct) -> Recipe:
    saved = recipe_file.read(folder.file(RECIPE))
    before_planning = folder.scratch / _ASKED_FOR
    planned = conduct.budget is not None and before_planning.exists()
    stood = recipe_file.read(before_planning) if planned else saved
    if keys := recipe_file.differing_keys(asked, stood, but=FREE):
        raise RecipeError(
            f"--resume, but the recipe asked for differs from the one in the folder in "
            f"{', '.join(keys)}; leave the option away, or use another --out"
        )
    return dataclasses.replace(saved, eval=asked.eval or saved.eval)
