"""The paper behind a method, cited once for docs, reports and benchmarks."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Need = Literal[
    "logits",
    "features",
    "batchnorm",
    "gradients",
    "weights",
    "inputs",
    "labels",
    "images",
    "nothing",
]


@dataclass(frozen=True, kw_only=True)
class Card:
    """A citation, what the method needs of the teacher and the user, and its reported results.

    Args:
        paper: authors, title and identifier, as cited on the page.
        needs: what the method needs, in the words of `Need`.
        reported: the paper's results, as published.
    """

    paper: str
    needs: tuple[Need, ...]
    reported: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.needs) - set(get_args(Need))
        if unknown:
            raise ValueError(f"needs must be among {get_args(Need)}, got {sorted(unknown)}")

    @property
    def arxiv(self) -> str | None:
        """The arXiv identifier, or None."""
        _, mark, rest = self.paper.partition("arXiv:")
        return rest.split()[0].rstrip(".,;") if mark else None


def card_of(part: object) -> Card | None:
    """Return the card in the file of a part's class; None if there is none."""
    card = getattr(sys.modules.get(type(part).__module__), "CARD", None)
    return card if isinstance(card, Card) else None
