"""Translation: sentences, scored by BLEU over the whole corpus, tokens by accuracy.

BLEU is that of the library sacrebleu with default settings, as in its signature. It is not a mean
over sentences: its counts (both lengths, matching n-grams, all n-grams) are first summed over the
corpus. A bootstrap over sentences resamples these counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from doublure.core.findings import Score
from doublure.core.optional import require
from doublure.core.protocols import Batch
from doublure.core.statistics import top1_equal


def bleu_counts(hypothesis: str, references: Sequence[str]) -> list[int]:
    """Return the counts of one sentence for BLEU: both lengths, matches, and n-grams by order."""
    found = _bleu().corpus_score([hypothesis], [[line] for line in references])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def bleu_of(counts: Sequence[int]) -> float:
    """Return BLEU in [0, 100] from the summed counts of a corpus."""
    length, reference, *rest = counts
    metric = _bleu()
    orders = metric.max_ngram_order
    found = metric.compute_bleu(
        rest[:orders], rest[orders:], length, reference, smooth_method=metric.smooth_method
    )
    return float(found.score)


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Return BLEU in [0, 100] of sentences with a reference each, and its signature."""
    metric = _bleu()
    score = metric.corpus_score(hypotheses, [references]).score
    return float(score), str(metric.get_signature())


@dataclass(frozen=True, kw_only=True)
class TranslatorOutputs:
    """Outputs of a translator for a batch.

    Args:
        logits: logits after each prefix of the references.
        text: its translations.
    """

    logits: Float[Tensor, "batch length classes"]
    text: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Translation:
    """Task: translation of sentences. A batch's view "reference" has the references as text."""

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]:
        """Return bleu in [0, 100] over sentences; token_accuracy and nll (nats) over tokens."""
        require("sacrebleu")  # before the work, not after it
        texts: list[str] = []
        references: list[str] = []
        right, nll, tokens = 0, 0.0, 0
        for answer, batch in pairs:
            assert isinstance(answer, TranslatorOutputs)
            texts += answer.text
            references += batch.views["reference"]
            if batch.labels is None or batch.mask is None:
                raise ValueError("translations are scored against references, which need labels")
            logits, labels = answer.logits[batch.mask].float(), batch.labels[batch.mask]
            right += int((logits.argmax(-1) == labels).sum())
            nll += float(F.cross_entropy(logits, labels, reduction="sum"))
            tokens += len(labels)
        if not texts:
            raise ValueError("nothing to score: there was no sentence")
        bleu, signature = corpus_bleu(texts, references)
        return {
            "bleu": Score(value=bleu, count=len(texts), signature=signature),
            "token_accuracy": Score(value=right / tokens, count=tokens),
            "nll": Score(value=nll / tokens, count=tokens),
        }

    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score:
        """Return the share of tokens with equal predictions, from (tokens, classes) logits."""
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
    ours, theirs = (torch.tensor(counts) for counts in (one, other))
    picks = torch.randint(len(ours), (draws, len(ours)), generator=rng)
    gaps = torch.tensor(
        [
            bleu_of(ours[pick].sum(0).tolist()) - bleu_of(theirs[pick].sum(0).tolist())
            for pick in picks
        ],
        dtype=torch.float64,
    )
    low, high = gaps.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high, float((gaps <= 0).double().mean())


def _bleu() -> Any:
    return require("sacrebleu").metrics.BLEU()
