"""Vocabularies: sentences as pieces of words, and the pieces as tokens.

Pieces are learned by byte-pair encoding (Sennrich, Haddow, Birch, arXiv:1508.07909), with the
library tokenizers: every word is spelled in characters, and the most frequent pair of neighbours
becomes one piece, repeatedly. A sentence is encoded by merging neighbours, the pair of the earliest
piece first, so that the ordered list of pieces is the whole vocabulary.

A word includes the space before it (`contract.SPACE`); punctuation is separate. An unknown
character is one `UNKNOWN`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from doublure.core.optional import require
from doublure.tasks.translation.contract import END, MARKS, SPACE


def learn_pieces(sentences: Iterable[str], num_pieces: int) -> tuple[str, ...]:
    """Return a vocabulary: `MARKS`, every character, then pieces as they were merged.

    Equal sentences give equal pieces; there are fewer than requested if nothing is left to merge.
    """
    model = require("tokenizers").models.BPE(unk_token=MARKS[-1])
    tokenizer = _tokenizer(model)
    trainer = require("tokenizers").trainers.BpeTrainer(
        vocab_size=num_pieces, special_tokens=[*MARKS], show_progress=False
    )
    tokenizer.train_from_iterator(map(_plain, sentences), trainer)
    tokens = tokenizer.get_vocab()
    pieces = tuple(sorted(tokens, key=tokens.__getitem__))
    if len(pieces) > num_pieces:  # it never omits a character
        raise ValueError(
            f"pieces must be at least {len(pieces)} to spell every character here, got {num_pieces}"
        )
    return pieces


class Tokenizer:
    """Encodes sentences as tokens of one vocabulary."""

    def __init__(self, pieces: Sequence[str]) -> None:
        tokens = {piece: token for token, piece in enumerate(pieces)}
        model = require("tokenizers").models.BPE(
            vocab=tokens, merges=[*_merges(pieces)], unk_token=MARKS[-1]
        )
        self._tokenizer = _tokenizer(model)

    def tokens(self, sentence: str, longest: int) -> list[int]:
        """Return the tokens of a sentence and `END`, at most `longest` in all."""
        tokens: list[int] = self._tokenizer.encode(_plain(sentence)).ids
        return [*tokens[: longest - 1], END]


def _merges(pieces: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every pair of pieces whose merge is a piece, in the order of the merged pieces."""
    known = set(pieces)
    for piece in pieces[len(MARKS) :]:
        for cut in range(1, len(piece)):
            if piece[:cut] in known and piece[cut:] in known:
                yield piece[:cut], piece[cut:]


def _tokenizer(model: Any) -> Any:
    """Return a tokenizer of single words, each with `SPACE` if there was one."""
    tokenizers = require("tokenizers")
    made = tokenizers.Tokenizer(model)
    words = tokenizers.pre_tokenizers
    made.pre_tokenizer = words.Sequence(
        [words.Metaspace(replacement=SPACE, prepend_scheme="always"), words.Punctuation("isolated")]
    )
    return made


def _plain(sentence: str) -> str:
    return " ".join(sentence.split())
