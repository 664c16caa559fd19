"""A run within a budget of wall time: planned before step 0, corrected while it learns.

Of the budget, what follows the training is kept back first: comparing and scoring the networks,
the audit where there is room for it, and the report. The rest is divided among the stages in the
proportion of their steps.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from doublure.engine.codec import Codec
from doublure.engine.fit import FitSettings
from doublure.engine.pacing import Pacer
from doublure.engine.planning import within_budget
from doublure.engine.processes import ProcessGroup
from doublure.engine.recipe import Recipe
from doublure.engine.run_folder import RECIPE, RunFolder, write_whole
from doublure.engine.task import JudgingCosts
from doublure.nets.network import Network

# Of a budget, at most so much is kept for what follows the training.
_JUDGING_SHARE = 0.25
# Of a budget, at most so much goes into comparing the networks, and into that with an audit.
_COMPARING_SHARE, _AUDIT_SHARE = 0.1, 0.15
# On fewer images, agreement says little.
_FEWEST_COMPARED = 256
# Seconds of the processor that the report takes, and how much longer on a host with other work.
_REPORTING, _BUSY = 3.0, 2.0


@dataclass(frozen=True, kw_only=True)
class Reserve:
    """What of a budget is kept for after the training.

    Args:
        seconds: in all.
        compared: images on which the networks are compared.
        audit: whether there is room for an audit among it.
        note: how the budget is divided, in words.
    """

    seconds: float
    compared: int | None
    audit: bool
    note: str


def reserve(budget: float, costs: JudgingCosts, spent: float, *, audit: bool) -> Reserve:
    """Return what to keep of a budget for after the training.

    Args:
        spent: seconds of the budget that are gone.
        audit: whether one is wanted.
    """
    busy = min(max(spent / max(time.process_time(), 1e-9), 1.0), _BUSY)
    reporting = busy * _REPORTING
    compared = costs.compared
    if compared * costs.comparing > _COMPARING_SHARE * budget:
        fitting = int(_COMPARING_SHARE * budget / costs.comparing)
        compared = min(compared, max(_FEWEST_COMPARED, fitting))
    judging = costs.scoring + compared * costs.comparing
    auditing = costs.audit if audit else 0.0
    room = judging + auditing <= _AUDIT_SHARE * budget
    after = reporting + judging + (auditing if room else 0.0)
    seconds = min(after, _JUDGING_SHARE * budget)
    parts = [f"{judging:.0f} s to judge", f"{reporting:.0f} s to report"]
    if auditing:
        parts.append(f"{auditing:.0f} s to audit" if room else f"no audit ({auditing:.0f} s)")
    note = f"budget {budget:.0f} s: {spent:.0f} s to open the networks, {', '.join(parts)}"
    if compared < costs.compared:
        note += f"; {compared} images are compared in place of {costs.compared:,}"
    return Reserve(seconds=seconds, compared=compared or None, audit=audit and room, note=note)


class BudgetedRun:
    """The recipe of a run, and when its training shall end.

    Args:
        recipe: as it was asked for; planned by `plan`.
        end: when the training shall end, by `time.perf_counter`.
        folder: where a corrected recipe is written to, by the first process.
    """

    def __init__(
        self,
        recipe: Recipe,
        end: float,
        processes: ProcessGroup,
        folder: RunFolder,
        codec: Codec,
    ) -> None:
        self.recipe, self._end, self._processes = recipe, end, processes
        self._folder, self._codec = folder, codec

    def plan(self, teacher: Network[Any] | None, student: Network[Any]) -> None:
        """Plan the recipe's steps and pools."""
        left = self._end - time.perf_counter()
        made = within_budget(self.recipe, teacher, student, left, self._processes)
        self.recipe = self._processes.broadcast(made)

    def pacer(self, stage: int, device: torch.device) -> Pacer:
        """Return what corrects the steps of a stage, which begins now."""
        now, steps = time.perf_counter(), [part.fit.steps for part in self.recipe.stages]
        share = steps[stage] / sum(steps[stage:])

        def adopt(settings: FitSettings) -> FitSettings:
            settings = self._processes.broadcast(settings)
            stages = list(self.recipe.stages)
            if settings != stages[stage].fit:
                stages[stage] = dataclasses.replace(stages[stage], fit=settings)
                self.recipe = dataclasses.replace(self.recipe, stages=tuple(stages))
                if self._processes.first:
                    text = self._codec.to_toml(self.recipe)
                    write_whole(self._folder.file(RECIPE), text)
            return settings

        deadline = now + share * (self._end - now)
        return Pacer(deadline, time.perf_counter, adopt, device)

    def finish(self, say: Callable[[str], None]) -> Recipe:
        """Return the recipe as it was carried out; say what of it was corrected."""
        for i, stage in enumerate(self.recipe.stages):
            if stage.fit.replanned:
                say(
                    f"budget: stage {i} took {stage.fit.steps:,} steps in place of "
                    f"{stage.fit.first_planned:,}, by what steps took on the way"
                )
        return self.recipe
