"""How long it takes to say what a student is like: what a budget keeps back for it.

A few held-out images are drawn and answered as after the training, and timed.
"""

import time

from doublure.core.protocols import OptimisedSource, parts_of
from doublure.engine.recipe import Stage
from doublure.engine.source_edits import iterations_of
from doublure.engine.stage_costs import seconds_to_answer
from doublure.engine.task import JudgingCosts
from doublure.nets.network import Network
from doublure.sources.few import Few
from doublure.tasks.classification.held_out import COUNT, answer_held_out

# Images that are drawn and answered to time it, after as many that pay for what comes once.
_TIMED = 32
# Of a transfer set's score: images drawn, the teacher's answers, most of them in attacks, and
# seconds for what it is clustered with.
_DRAWN, _ANSWERED, _IMPORTING = 2048, 12_288, 3.0
# Of a search that is followed: images, passes for an iteration, and how much dearer few images are.
_FOLLOWED, _PASSES, _FEW = 6, 3.0, 2.0


def judging_costs(
    stage: Stage, teacher: Network | None, student: Network, num_labelled: int
) -> JudgingCosts:
    """Return about what scoring, comparing and auditing take after a run.

    Args:
        num_labelled: images to score on.
    """
    networks = [student] if teacher is None else [student, teacher]
    answering = [seconds_to_answer(network) for network in networks]
    scoring = num_labelled * sum(answering)
    if teacher is None or teacher.contract.classes != student.contract.classes:
        return JudgingCosts(scoring=scoring)
    for _ in range(2):
        start = time.perf_counter()
        answer_held_out(stage, 0, teacher, student, _TIMED)
        comparing = (time.perf_counter() - start) / _TIMED
    parts = [*parts_of(stage.source)]
    searches = [part for part in parts if isinstance(part, OptimisedSource)]
    if searches:
        iterations = sum(iterations_of(part) or 0 for part in searches)
        audit = _FOLLOWED * _PASSES * _FEW * iterations * answering[-1]
    else:
        audit = _IMPORTING + _DRAWN * comparing + _ANSWERED * answering[-1]
    few = any(isinstance(part, Few) and part.held_out for part in parts)
    compared = 0 if few else COUNT  # all of a few images are compared
    return JudgingCosts(scoring=scoring, comparing=comparing, compared=compared, audit=audit)
