"""Recipe in, run folder out: open the networks, train stage by stage, then write it all down.

The order is the promise: the recipe is on disk before step 0, the student before anything is said
about it. Evaluation, logging and checkpoints never touch what the student's bytes depend on.
"""

import copy
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy import recipe as recipe_file
from understudy.budget import Lap, steps_within, time_steps
from understudy.distill import distill, site_of
from understudy.fit import FitSettings, Keeper, Outcome, fit
from understudy.fit import Journal as Watcher
from understudy.export.programs import trace_program, write_program
from understudy.loading import rebuilds, resolve, save
from understudy.nets.network import Network
from understudy.objectives.weighted import open_criterion
from understudy.recipe import Recipe, RecipeError, Stage
from understudy.run_folder import RECIPE, FolderKeeper, Journal, RunFolder, write_whole
from understudy.seeding import child, child_seed, from_seed
from understudy.summary import summarize

# What does not decide the student's bytes: two recipes that differ only here are one run.
FREE = ("eval", "fit.log_every")


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a run is carried out, as opposed to what it is.

    Args:
        budget: seconds that become steps, once; None where the recipe says the steps.
        networks: networks made in Python, in place of the recipe's references, by role.
        say: is told lines worth a person's eye.
        watch: is told the number of steps and each line of the journal.
        checkpoint_seconds: time between two checkpoints.
        rank: which process this is, of `world`.
    """

    resume: bool = False
    overwrite: bool = False
    budget: float | None = None
    allow_code: bool | Collection[str | Path] = False
    networks: Mapping[str, Network] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None
    checkpoint_seconds: float = 30.0
    rank: int = 0
    world: int = 1


def run(recipe: Recipe, out: Path, conduct: Conduct) -> dict[str, Any]:
    """Carry out `recipe` in the folder `out` and return its summary.

    Raises:
        RunFolderError: the folder is in the way, or cannot be written.
        RecipeError: `resume` finds another recipe there; the message names the keys.
    """
    began = time.perf_counter()
    folder = RunFolder(out, conduct.rank)
    saved = folder.prepare(resume=conduct.resume, overwrite=conduct.overwrite)
    conduct = dataclasses.replace(conduct, say=folder.logging(conduct.say))
    if saved:
        recipe = _going_on(recipe, recipe_file.read(folder.file(RECIPE)), conduct)
    teacher, student = open_networks(recipe, conduct)
    if not saved:
        if conduct.budget is not None:
            left = conduct.budget - (time.perf_counter() - began)
            recipe = within_budget(recipe, teacher, student, left)
            conduct.say(f"budget {conduct.budget:.0f}s: {recipe.stages[-1].fit.steps} steps")
        write_whole(folder.file(RECIPE), recipe_file.to_toml(recipe))
    conduct.say(f"{recipe.verb} {recipe.method}: {recipe.student.ref} into {out}")
    outcomes = [
        _train_in_folder(stage, i, recipe, teacher, student, folder, conduct)
        for i, stage in enumerate(recipe.stages)
    ]
    if conduct.rank > 0:
        return {}
    made = _network_of(outcomes[-1].network, student)
    save(made, out)
    if not rebuilds(made.reference) or made.reference.startswith("file:"):
        # No name makes this architecture again elsewhere, so it travels with the weights.
        write_program(trace_program(made), made, out / "student.pt2")
    return summarize(recipe, folder, outcomes, teacher, made, say=conduct.say)


def open_networks(recipe: Recipe, conduct: Conduct) -> tuple[Network | None, Network]:
    """Return the teacher, where there is one, and the student before its first step."""
    device = device_named(recipe.device)
    made = dict(conduct.networks)
    if "teacher" not in made and recipe.teacher is not None:
        opened = resolve(recipe.teacher, allow_code=conduct.allow_code)
        if opened.random:
            conduct.say("teacher: its weights are random; name trained ones with --weights")
        for note in opened.notes:
            conduct.say(f"teacher: {note}")
        made["teacher"] = opened.network
    if "student" not in made:
        made["student"] = resolve(
            recipe.student,
            like=made["teacher"].contract if "teacher" in made else None,
            allow_code=conduct.allow_code,
            rng=from_seed(child_seed(recipe.seed, "student")),
        ).network
    for network in made.values():
        network.to(device)
    return made.get("teacher"), made["student"]


def device_named(name: str) -> torch.device:
    """Return the device of a name; "auto" is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device '{name}' asked for, but torch sees no CUDA device; use cpu")
    return device


def train_stage(
    stage: Stage,
    teacher: Network | None,
    student: Network,
    rng: torch.Generator,
    *,
    settings: FitSettings | None = None,
    keeper: Keeper | None = None,
    watcher: Watcher | None = None,
    **where: Any,
) -> Outcome:
    """Train `student` in place by one stage of a recipe.

    Args:
        settings: in place of the stage's own, for a part of a run.
        where: fields of the `Site` that a caller knows: rank, world, scratch.
    """
    site = site_of(student.contract, student, stage.fit, **where)
    settings = settings or stage.fit
    if teacher is not None:
        return distill(
            student,
            teacher,
            stage.source,
            stage.objective,
            settings=settings,
            site=site,
            rng=rng,
            rules=stage.rules,
            keeper=keeper,
            journal=watcher,
        )
    stream = stage.source.open(site, None, child(rng, "source"))
    example = stage.source.open(site, None, child(rng, "example")).draw(0, student)
    return fit(
        student,
        stream,
        open_criterion(stage.objective, student, None, example, child(rng, "objective")),
        settings=settings,
        rng=rng,
        rules=stage.rules,
        keeper=keeper,
        journal=watcher,
        world=site.world,
    )


def within_budget(
    recipe: Recipe, teacher: Network | None, student: Network, seconds: float
) -> Recipe:
    """Return the recipe with the steps that fit into `seconds`, timed on copies.

    With several stages, the time is shared in the proportion of their steps.
    """
    weights = [stage.fit.steps for stage in recipe.stages]
    stages = []
    for i, stage in enumerate(recipe.stages):

        def train(settings: FitSettings, lap: Lap, stage: Stage = stage, i: int = i) -> None:
            with tempfile.TemporaryDirectory() as scratch:
                train_stage(
                    stage,
                    teacher,
                    copy.deepcopy(student),
                    _stage_rng(recipe, i),
                    settings=settings,
                    watcher=lap,
                    scratch=Path(scratch),
                )

        timing = time_steps(train, stage.fit)
        steps = steps_within(seconds * weights[i] / sum(weights), timing)
        stages.append(dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, steps=steps)))
    return dataclasses.replace(recipe, stages=tuple(stages))


def _train_in_folder(
    stage: Stage,
    i: int,
    recipe: Recipe,
    teacher: Network | None,
    student: Network,
    folder: RunFolder,
    conduct: Conduct,
) -> Outcome:
    together = max(1, stage.fit.steps // 20) if conduct.world > 1 else None
    keeper = FolderKeeper(folder, i, seconds=conduct.checkpoint_seconds, steps=together)
    state = keeper.load()
    if state is not None:
        conduct.say(f"going on from step {state['step']} of {stage.fit.steps}")
    train = functools.partial(
        train_stage,
        stage,
        teacher,
        student,
        _stage_rng(recipe, i),
        keeper=keeper,
        rank=conduct.rank,
        world=conduct.world,
        scratch=folder.scratch,
    )
    if conduct.rank > 0:  # one writer
        return train()
    with Journal(folder, i, after_step=0 if state is None else state["step"]) as journal:

        def watcher(line: dict[str, Any]) -> None:
            journal(line)
            conduct.watch(stage.fit.steps, line)

        return train(watcher=watcher)


def _stage_rng(recipe: Recipe, stage: int) -> torch.Generator:
    return from_seed(child_seed(recipe.seed, "stage", stage))


def _going_on(asked: Recipe, saved: Recipe, conduct: Conduct) -> Recipe:
    free = (*FREE, "fit.steps") if conduct.budget is not None else FREE
    keys = recipe_file.differing_keys(asked, saved, but=free)
    if keys:
        raise RecipeError(
            f"--resume, but the recipe asked for differs from the one in the folder in "
            f"{', '.join(keys)}; leave the option away, or use another --out"
        )
    return dataclasses.replace(saved, eval=asked.eval or saved.eval)


def _network_of(made: nn.Module, student: Network) -> Network:
    if isinstance(made, Network):
        return made
    return Network(made, student.contract, student.reference)
