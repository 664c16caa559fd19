"""What a report calls what was shown, answered and judged: images, or sentences and tokens."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["image", "token"]


@dataclass(frozen=True, kw_only=True)
class Words:
    """The nouns of a task.

    Args:
        shown: what a stream shows, and speed counts.
        answered: what one answer is about.
        held_out: what student and teacher are compared on, where the run does not say.
        agreement: what they have in common there.
        same: the name of that figure.
        judged: what a score is taken on.
        quality: what such a score says.
        unknown: the verdict where nothing was scored.
    """

    shown: str
    answered: str
    held_out: str
    agreement: str
    same: str
    judged: str
    quality: str
    unknown: str

    @property
    def pictured(self) -> bool:
        """Whether what was shown can be looked at, and is of one class."""
        return self.shown == "images"


_IMAGES = Words(
    shown="images",
    answered="image",
    held_out="held-out transfer images",
    agreement="name the same class",
    same="Same top class",
    judged="labelled images",
    quality="accuracy",
    unknown="Accuracy unknown",
)
_SENTENCES = Words(
    shown="sentences",
    answered="token",
    held_out="tokens of held-out sentences",
    agreement="go on with the same token",
    same="Same next token",
    judged="sentences with references",
    quality="the quality of its translations",
    unknown="Not scored",
)


def words_of(unit: Unit) -> Words:
    """Return the nouns of the task whose answers are about this unit."""
    return _SENTENCES if unit == "token" else _IMAGES
