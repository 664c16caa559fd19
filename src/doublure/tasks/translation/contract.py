"""Contracts of translators: sentences as tokens, and their vocabularies.

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

# The first tokens of every vocabulary: padding, start and end of a sentence, unknown character.
PAD, BEGIN, END, UNKNOWN = range(4)
MARKS = ("<pad>", "<s>", "</s>", "<unk>")
# Marks the space before a word, so that the concatenated pieces are the sentence.
SPACE = "\u2581"
# A metric of a batch: 1 if the student generated its sentences, else 0.
OWN_SENTENCES = "own_sentences"


@dataclass(frozen=True, kw_only=True)
class TextContract:
    """Contract of a translator: languages and vocabularies.

    Args:
        languages: source and target language, as in the suffixes of parallel text: "de", "en".
        source: the pieces that sentences are made of, by token; `MARKS` come first.
        target: pieces of the target language: the classes of every output.
        longest: maximum tokens of a sentence, including its end; longer ones are truncated.
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
        """The number of pieces in the target vocabulary."""
        return len(self.target)

    def text(self, tokens: Iterable[int]) -> str:
        """Return the sentence of target tokens, up to its end."""
        spelt = takewhile(lambda token: token != END, tokens)
        pieces = [self.target[token] for token in spelt if token not in (PAD, BEGIN)]
        return "".join(pieces).replace(SPACE, " ").strip()

    @property
    def normalisation(self) -> None:
        """None: tokens are not normalised."""

    def blank(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """Return empty sentences with empty prefixes."""
        source = torch.full((count, 1), END, device=device)
        return {"source": source, "prefix": torch.full((count, 1), BEGIN, device=device)}


@dataclass(frozen=True, kw_only=True)
class TextDescription:
    """The description of a translator in student.json."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    architecture: str
    languages: tuple[str, str]
    source_pieces: tuple[str, ...]
    target_pieces: tuple[str, ...]
    longest: int
    plan: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        _ = self.contract  # which checks the values

    @property
    def contract(self) -> TextContract:
        """The description as a contract."""
        return TextContract(
            languages=self.languages,
            source=self.source_pieces,
            target=self.target_pieces,
            longest=self.longest,
        )
