"""A student with its own classes, trained on the features of a teacher with other classes.

Then nothing may compare their outputs: neither the objective, nor a source that selects or
generates images by the teacher's classes.
"""

from doublure.core.cards import card_of
from doublure.core.protocols import OptimisedSource, Source, parts_of
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.sources.adversarial import Adversarial
from doublure.sources.balanced import Balanced


def compares_layers_alone(objective: object) -> bool:
    """Return whether an objective uses no outputs, so that it does not train the classifier."""
    if isinstance(objective, Weighted):
        return all(compares_layers_alone(part) for _, part in objective.terms)
    card = card_of(objective)
    return card is not None and card.needs == ("features",)


def compares_answers(objective: object) -> bool:
    """Return whether an objective needs a teacher with the student's classes."""
    if isinstance(objective, Weighted):
        return any(compares_answers(part) for _, part in objective.terms)
    if isinstance(objective, HardLabels):
        return objective.of == "teacher"
    card = card_of(objective)
    return card is not None and "logits" in card.needs


def check_label_space(objective: AnyObjective, source: Source) -> None:
    """Raise unless source and objective support a student with its own classes."""
    if compares_answers(objective):
        raise ValueError(
            "the student has its own classes, but the objective compares its outputs with the "
            "teacher's; use one that compares layers only, such as --objective "
            "activation-boundaries, and --labels with a labelled transfer set"
        )
    for part in parts_of(source):
        if isinstance(part, Balanced | Adversarial | OptimisedSource):
            raise ValueError(
                f"the student has its own classes, but {type(part).__name__} uses the teacher's; "
                f"name images with --transfer"
            )
