"""Vocabularies: sentences as pieces of words, and the pieces as tokens.

Pieces are learned by byte-pair encoding (Sennrich, Haddow, Birch, arXiv:1508.07909): every word is
spelled in characters, and the most frequent pair of neighbours becomes one piece, again and again.
A sentence is then spelled with the longest pieces that fit, from the left, so that the list of
pieces is all there is to know. Differs from the paper: there the merges are replayed in order.

A word keeps the space in front of it (`protocols.SPACE`); punctuation stands alone.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from understudy.protocols import END, MARKS, SPACE, UNKNOWN

_WORD = re.compile(rf"{SPACE}?(?:[^\W_]+|[^\w{SPACE}]|_)")
_Pair = tuple[str, str]


def words_of(sentence: str) -> list[str]:
    """Return the words and marks of a sentence, each with `SPACE` in front where there was one."""
    return _WORD.findall(SPACE + SPACE.join(sentence.split()))


def learn_pieces(sentences: Iterable[str], num_pieces: int) -> tuple[str, ...]:
    """Return a vocabulary: `MARKS`, every character, then pieces as they were merged.

    Equal sentences give equal pieces; there are fewer than asked where nothing is left to merge.
    """
    words = Counter(word for sentence in sentences for word in words_of(sentence))
    letters = Counter[str]()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    pieces = [*MARKS, *sorted(letters, key=lambda letter: (-letters[letter], letter))]
    if len(pieces) > num_pieces:
        raise ValueError(
            f"pieces must be at least {len(pieces)} to spell every character here, got {num_pieces}"
        )
    known = set(pieces)
    for piece in _merged(words):
        if len(pieces) == num_pieces:
            break
        if piece not in known:  # two merges can spell the same
            known.add(piece)
            pieces.append(piece)
    return tuple(pieces)


def _merged(words: Counter[str]) -> Iterator[str]:
    """Yield what the most frequent pair spells, merge it everywhere, and go on."""
    spelled = [[*word] for word in words]
    counts = list(words.values())
    pairs, where = Counter[_Pair](), defaultdict[_Pair, set[int]](set)
    for place, spelling in enumerate(spelled):
        for pair in pairwise(spelling):
            pairs[pair] += counts[place]
            where[pair].add(place)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    while heap:
        count, pair = heapq.heappop(heap)
        if -count != pairs[pair]:
            if pairs[pair] > 0:  # a count of before: put it back where it belongs now
                heapq.heappush(heap, (-pairs[pair], pair))
            continue
        yield "".join(pair)
        changed = set[_Pair]()
        for place in where.pop(pair):
            old, new = spelled[place], _joined(spelled[place], pair)
            spelled[place] = new
            for gone in pairwise(old):
                pairs[gone] -= counts[place]
            for come in pairwise(new):
                pairs[come] += counts[place]
                where[come].add(place)
                changed.add(come)
        pairs[pair] = 0
        for come in sorted(changed):
            heapq.heappush(heap, (-pairs[come], come))


def _joined(spelling: Sequence[str], pair: _Pair) -> list[str]:
    """Return the spelling with every such pair of neighbours made one."""
    joined, place = [], 0
    while place < len(spelling):
        if tuple(spelling[place : place + 2]) == pair:
            joined.append("".join(pair))
            place += 2
        else:
            joined.append(spelling[place])
            place += 1
    return joined


class Speller:
    """Turns sentences into tokens of one vocabulary."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._tokens = {piece: token for token, piece in enumerate(pieces)}
        self._longest = max(map(len, pieces))
        self._known: dict[str, list[int]] = {}

    def tokens(self, sentence: str, longest: int) -> list[int]:
        """Return the tokens of a sentence and `END`, at most `longest` in all."""
        tokens = [token for word in words_of(sentence) for token in self._spell(word)]
        return [*tokens[: longest - 1], END]

    def _spell(self, word: str) -> list[int]:
        if word not in self._known:
            made, place = [], 0
            while place < len(word):
                ends = range(min(place + self._longest, len(word)), place, -1)
                end = next((end for end in ends if word[place:end] in self._tokens), place + 1)
                made.append(self._tokens.get(word[place:end], UNKNOWN))
                place = end
            self._known[word] = made
        return self._known[word]
