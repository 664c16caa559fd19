"""The nouns of a task in reports and messages."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Words:
    """The nouns of a task.

    Args:
        takes: predicate of its networks, after their name: "takes images", "translates text".
        shown: items of a stream, also in speeds.
        answered: the item of one output.
        held_out: items for the comparison of student and teacher, if the run does not name them.
        agreement: what agrees there.
        same: name of the share that agrees.
        judged: items of a score.
        quality: meaning of such a score.
        unknown: the verdict without scores.
        pictured: whether items are images of one class each, which a report can show.
    """

    takes: str
    shown: str
    answered: str
    held_out: str
    agreement: str
    same: str
    judged: str
    quality: str
    unknown: str
    pictured: bool = False


# Words for a run without a task of its own.
NEUTRAL = Words(
    takes="takes inputs",
    shown="inputs",
    answered="input",
    held_out="held-out inputs",
    agreement="give the same output",
    same="Same output",
    judged="labelled data",
    quality="accuracy",
    unknown="Accuracy unknown",
    pictured=True,
)
