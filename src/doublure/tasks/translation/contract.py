"""What translators take: sentences as tokens, and the vocabularies that spell them.

Sentences are int64 tokens, batch by length, padded with `PAD`; a view of them has "source" and
"prefix".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor

# The first tokens of every vocabulary: padding, the ends of a sentence, what no piece spells.
PAD, BEGIN, END, UNKNOWN = range(4)
MARKS = ("<pad>", "<s>", "</s>", "<unk>")
# Stands for the space in front of a word, so that pieces put together are the sentence.
SPACE = "\u2581"
# A fact of a batch: 1 where the student has made its sentences itself, else 0.
OWN_SENTENCES = "own_sentences"


@dataclass(frozen=True, kw_only=True)
class TextContract:
    """What a translator expects of a sentence and what its outputs stand for.

    Args:
        languages: translated from and into, as the files of parallel text end: "de", "en".
        source: the pieces that sentences are made of, by token; `MARKS` come first.
        target: the same of the language translated into: the classes of every answer.
        longest: tokens of a sentence, its end included; what is longer is cut.
    """

    languages: tuple[str, str]
    source: tuple[str, ...]
    target: tuple[str, ...]
    longest: int = 64

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            pieces = getattr(self, name)
            if pieces[: len(MARKS)] != MARKS or len(set(pieces)) < len(pieces):
                raise ValueError(
                    f"{name} must be distinct pieces and begin with {', '.join(MARKS)}"
                )
        if self.longest < 2:
            raise ValueError(f"longest must be at least 2, got {self.longest}")

    @property
    def classes(self) -> int:
        """How many pieces an answer chooses from."""
        return len(self.target)

    def text(self, tokens: Iterable[int]) -> str:
        """Return the sentence that target tokens spell, up to its end."""
        spelt = takewhile(lambda token: token != END, tokens)
        pieces = [self.target[token] for token in spelt if token not in (PAD, BEGIN)]
        return "".join(pieces).replace(SPACE, " ").strip()

    @property
    def normalisation(self) -> None:
        """None: tokens are shown as they are."""

    def blank(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """Return sentences without a word, none of which has been translated yet."""
        source = torch.full((count, 1), END, device=device)
        return {"source": source, "prefix": torch.full((count, 1), BEGIN, device=device)}


@dataclass(frozen=True, kw_only=True)
class TextDescription:
    """What student.json says of a translator."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    architecture: str
    languages: tuple[str, str]
    source_pieces: tuple[str, ...]
    target_pieces: tuple[str, ...]
    longest: int
    plan: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        _ = self.contract  # which checks that the values agree

    @property
    def contract(self) -> TextContract:
        """The same as a contract."""
        return TextContract(
            languages=self.languages,
            source=self.source_pieces,
            target=self.target_pieces,
            longest=self.longest,
        )
