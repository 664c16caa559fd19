"""How long a run without a budget will take, said before step 0.

What is counted: in each step the student's answers and their gradients, and the teacher's answers;
in each iteration of a search for images the teacher's answers and their gradients. A gradient takes
about twice as long as the answer. One answer is timed here; its operations are counted, and say
what a GPU would take at a given rate.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from doublure.engine.recipe import Recipe, Stage
from doublure.engine.source_edits import iterations_of, pool_of
from doublure.engine.stage_costs import seconds_to_answer
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze

# Runs that take less are not worth a word.
SHORT = 600.0
# Operations a second that a GPU is taken to do on convolutions in float32, in small batches.
GPU_RATE = 5e12
# An answer with its gradient, in answers.
_LEARNING = 3


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers of the networks in a run; one with its gradient counts as three.

    Args:
        teacher: of the teacher, in inputs.
        student: of the student.
    """

    teacher: float
    student: float


def count_answers(stage: Stage) -> Answers:
    """Return how many answers the networks give in a stage."""
    steps, size = stage.fit.steps, stage.fit.batch_size
    asked = 1.0 / (1 if stage.ring is None else stage.ring.reuse)
    searched = 0.0
    pool = pool_of(stage.source)
    iterations = None if pool is None else iterations_of(pool.source)
    if pool is not None and iterations is not None:
        batches = pool.first + int(pool.until * steps) // pool.every
        images = min(batches * (pool.made_at_once or size), pool.capacity)
        searched = _LEARNING * iterations * images
    elif iterations_of(stage.source) is not None:
        searched = float(_LEARNING * (iterations_of(stage.source) or 0) * steps * size)
    return Answers(teacher=steps * size * asked + searched, student=_LEARNING * steps * size)


def forecast(recipe: Recipe, teacher: Network[Any] | None, student: Network[Any]) -> str | None:
    """Return a sentence on how long a run will take; None if that is below ten minutes.

    Args:
        teacher: its teacher, None for `train`.
        student: its student, on the device of the run.
    """
    answers = [count_answers(stage) for stage in recipe.stages]
    counts = {"student": sum(one.student for one in answers)}
    networks = {"student": student}
    if teacher is not None:
        counts["teacher"], networks["teacher"] = sum(one.teacher for one in answers), teacher
    seconds = sum(counts[name] * seconds_to_answer(one) for name, one in networks.items())
    if seconds < SHORT:
        return None
    steps = sum(stage.fit.steps for stage in recipe.stages)
    text = f"{steps:,} steps need about {duration(seconds)} here"
    if device_of(student).type == "cpu":
        flops = sum(counts[name] * _operations(one) for name, one in networks.items())
        rate = f"{GPU_RATE / 1e12:g} TFLOP/s"
        text += f", about {duration(flops / GPU_RATE)} on a GPU at {rate}"
    return f"{text}; --budget 20m makes the best of 20 minutes"


def duration(seconds: float) -> str:
    """Return a duration to two digits at most, in the unit that a person would choose."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}" if seconds < 99 * length else f">99 {unit}"
    return f"{max(seconds, 2):.2g} seconds"


def _operations(network: Network[Any]) -> float:
    """Return the floating-point operations of one answer."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        freeze(network)(network.contract.blank(1, device_of(network)))
    return float(counter.get_total_flops())
