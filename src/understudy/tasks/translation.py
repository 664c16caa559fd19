"""Translation: sentences, scored by BLEU over the whole corpus, tokens by accuracy.

BLEU (Papineni et al. 2002) with one or more references a sentence: with m_n the n-grams of all
hypotheses that their references have, each counted at most as often as there, of c_n in all,

    BLEU = min(1, exp(1 - r / c_1)) * (m_1/c_1 * m_2/c_2 * m_3/c_3 * m_4/c_4)^(1/4)

with r the length of the references of nearest length. Sums over the corpus are taken first: it is
no mean over sentences. Where no n-gram of some length matches, m_n/c_n is 2^-k / c_n for the k-th
such length, the "exp" smoothing that is usual. Words are those of NIST's mteval-v13a. So the figure
is meant to be sacrebleu's with signature nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from understudy.protocols import Batch, Score
from understudy.tasks.classification import top1_equal

ORDERS = 4
# Characters that are words of their own: ASCII symbols other than ' , - and the full stop.
_SYMBOL = re.compile(r"([!-&(-+/:-@\[-`{-~])")
# A comma or a full stop stands alone but between digits; a dash does behind one.
_AFTER, _BEFORE = re.compile(r"([^0-9])([.,])"), re.compile(r"([.,])([^0-9])")
_DASH = re.compile(r"([0-9])(-)")
_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}


def bleu_words(sentence: str) -> list[str]:
    """Return the words of a sentence as mteval-v13a counts them."""
    for entity, character in _ENTITIES.items():
        sentence = sentence.replace(entity, character)
    sentence = _SYMBOL.sub(r" \1 ", f" {sentence} ")
    sentence = _AFTER.sub(r"\1 \2 ", sentence)
    sentence = _BEFORE.sub(r" \1 \2", sentence)
    return _DASH.sub(r"\1 \2 ", sentence).split()


def bleu_counts(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
    """Return what BLEU adds up, of one sentence: both lengths, matches, and n-grams by order."""
    length = len(hypothesis)
    nearest = min((abs(len(words) - length), len(words)) for words in references)[1]
    matched, total = [], []
    for order in range(1, ORDERS + 1):
        found = _ngrams(hypothesis, order)
        allowed = Counter[tuple[str, ...]]()
        for words in references:
            allowed |= _ngrams(words, order)
        matched.append((found & allowed).total())
        total.append(found.total())
    return [length, nearest, *matched, *total]


def bleu_of(counts: Sequence[int] | Sequence[float]) -> float:
    """Return BLEU in [0, 100] of the counts of a corpus, summed over its sentences."""
    length, reference, *rest = counts
    matched, total = rest[:ORDERS], rest[ORDERS:]
    if not matched[0] or not all(total):
        return 0.0
    smoothing, logs = 1.0, 0.0
    for found, of in zip(matched, total, strict=True):
        if not found:
            smoothing /= 2
        logs += math.log((found or smoothing) / of)
    return 100 * math.exp(min(0.0, 1 - reference / length) + logs / ORDERS)


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return BLEU in [0, 100] of sentences with the references of each."""
    rows = [
        bleu_counts(bleu_words(one), [bleu_words(other) for other in others])
        for one, others in zip(hypotheses, references, strict=True)
    ]
    return bleu_of([sum(column) for column in zip(*rows, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a translator answered for a batch.

    Args:
        logits: behind each prefix of the references.
        text: its own translations.
    """

    logits: Float[Tensor, "batch length classes"]
    text: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Translation:
    """Task: a sentence for a sentence. A batch's view "reference" holds the references as text."""

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]:
        """Return bleu in [0, 100] over sentences; token_accuracy and nll (nats) over tokens."""
        rows: list[list[int]] = []
        right, nll, tokens = 0, 0.0, 0
        for answer, batch in pairs:
            assert isinstance(answer, Answer)
            for text, reference in zip(answer.text, batch.views["reference"], strict=True):
                rows.append(bleu_counts(bleu_words(text), [bleu_words(reference)]))
            if batch.labels is None or batch.mask is None:
                raise ValueError("translations are scored against references, which need labels")
            logits, labels = answer.logits[batch.mask].float(), batch.labels[batch.mask]
            right += int((logits.argmax(-1) == labels).sum())
            nll += float(F.cross_entropy(logits, labels, reduction="sum"))
            tokens += len(labels)
        if not rows:
            raise ValueError("nothing to score: there was no sentence")
        bleu = bleu_of([sum(column) for column in zip(*rows, strict=True)])
        return {
            "bleu": Score(value=bleu, count=len(rows)),
            "token_accuracy": Score(value=right / tokens, count=tokens),
            "nll": Score(value=nll / tokens, count=tokens),
        }

    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score:
        """Return the share of tokens that two networks name alike, of (tokens, classes) logits."""
        same, count = 0, 0
        for student, teacher in outputs:
            equal = top1_equal(student, teacher)
            same, count = same + int(equal.sum()), count + len(equal)
        if count == 0:
            raise ValueError("nothing to compare: there was no token")
        return Score(value=same / count, count=count)


def paired_bootstrap(
    one: Sequence[Sequence[int]],
    other: Sequence[Sequence[int]],
    draws: int,
    rng: torch.Generator,
) -> tuple[float, float, float]:
    """Return the 95 % interval of BLEU(one) - BLEU(other), and the share of draws not above 0.

    Koehn 2004: corpora of as many sentences are drawn with replacement, the same for both.

    Args:
        one: `bleu_counts` of each sentence.
    """
    ours, theirs = (torch.tensor(counts, dtype=torch.float64) for counts in (one, other))
    picks = torch.randint(len(ours), (draws, len(ours)), generator=rng)
    gaps = torch.tensor(
        [
            bleu_of(ours[pick].sum(0).tolist()) - bleu_of(theirs[pick].sum(0).tolist())
            for pick in picks
        ]
    )
    low, high = gaps.quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high, float((gaps <= 0).double().mean())


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))
