"""A student with classes of its own, taught by the layers of a teacher that knows others.

Nothing may then look at the teacher's answers beside the student's: not the objective, and not a
source that chooses or makes images by the teacher's classes.
"""

from doublure.core.cards import card_of
from doublure.core.protocols import OptimisedSource, Source, parts_of
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.sources.adversarial import Adversarial
from doublure.sources.balanced import Balanced


def compares_layers_alone(objective: object) -> bool:
    """Whether an objective says nothing of the outputs, so that no classifier learns from it."""
    if isinstance(objective, Weighted):
        return all(compares_layers_alone(part) for _, part in objective.terms)
    card = card_of(objective)
    return card is not None and card.needs == ("features",)


def compares_answers(objective: object) -> bool:
    """Whether an objective needs a teacher that knows the student's classes."""
    if isinstance(objective, Weighted):
        return any(compares_answers(part) for _, part in objective.terms)
    if isinstance(objective, HardLabels):
        return objective.of == "teacher"
    card = card_of(objective)
    return card is not None and "logits" in card.needs


def check_label_space(objective: AnyObjective, source: Source) -> None:
    """Raise unless a student whose classes are not the teacher's can learn so."""
    if compares_answers(objective):
        raise ValueError(
            "the student has classes of its own, but the objective compares its answers with the "
            "teacher's; use one that compares layers alone, as --objective activation-boundaries, "
            "and --labels with a labelled transfer set"
        )
    for part in parts_of(source):
        if isinstance(part, Balanced | Adversarial | OptimisedSource):
            raise ValueError(
                f"the student has classes of its own, but {type(part).__name__} goes by the "
                "teacher's; name images with --transfer"
            )
