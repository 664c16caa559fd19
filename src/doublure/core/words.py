"""The nouns of a task: what its reports and messages call what is shown, answered and scored."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Words:
    """The nouns of a task.

    Args:
        takes: what its networks do, behind their name: "takes images", "translates text".
        shown: what a stream shows, and speed counts.
        answered: what one output is about.
        held_out: what student and teacher are compared on, where the run does not say.
        agreement: what they have in common there.
        same: the name of that share.
        judged: what a score is taken on.
        quality: what such a score says.
        unknown: the verdict where nothing was scored.
        pictured: what was shown are images of one class each, which a report can show.
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


# Where nobody says what a run is about.
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
