import sys

import pytest
import torch

from doublure.core.optional import MissingExtraError, require
from doublure.core.protocols import Batch
from doublure.core.seeding import from_seed
from doublure.tasks.translation.scores import (
    Translation,
    TranslatorOutputs,
    bleu_counts,
    bleu_of,
    corpus_bleu,
    paired_bootstrap,
)
from tests.text import needs_extra


@needs_extra
def test_bleu_comes_with_the_signature_of_the_library_that_took_it():
    score, signature = corpus_bleu(["a b c d e f", "x y"], ["a b c d e f", "p q"])
    # By hand: n-grams that match, of those that are there, by order.
    assert score == pytest.approx(100 * (6 / 8 * 5 / 6 * 4 / 4 * 3 / 3) ** 0.25)
    version = require("sacrebleu").__version__
    assert signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"


@needs_extra
def test_counts_of_sentences_add_up_to_the_score_of_their_corpus():
    vocabulary = ["a", "dog", "man,", "3.5", "it's", "runs.", "(x)", "--", "5-year"]
    rng = from_seed(0)
    for count in (1, 5, 40):
        hypotheses, references = (
            [
                " ".join(vocabulary[i] for i in torch.randint(9, (9,), generator=rng))
                for _ in range(count)
            ]
            for _ in "ab"
        )
        rows = [bleu_counts(h, [r]) for h, r in zip(hypotheses, references, strict=True)]
        summed = [sum(column) for column in zip(*rows, strict=True)]
        assert bleu_of(summed) == pytest.approx(corpus_bleu(hypotheses, references)[0], abs=1e-9)


@needs_extra
def test_counts_are_both_lengths_then_matches_then_n_grams():
    made = bleu_counts("am I am a character sequence", ["I am a symbol string sequence a a"])
    assert made == [6, 8, 4, 2, 1, 0, 6, 5, 4, 3]
    several = bleu_counts("The dog bit the man.", ["The dog had bit the man.", "A dog bit him"])
    assert several[:3] == [6, 7, 6]


def pair(text, reference, logits, labels):
    mask = labels != 0
    batch = Batch(views={"reference": (reference,)}, labels=labels, mask=mask)
    return TranslatorOutputs(logits=logits, text=(text,)), batch


@needs_extra
def test_scores_are_taken_over_the_corpus_whatever_the_batches():
    logits = torch.zeros(1, 3, 6)
    logits[0, 0, 5], logits[0, 1, 4], logits[0, 2, 3] = 9.0, 9.0, 9.0
    pairs = [
        pair("a b c d e f", "a b c d e f", logits, torch.tensor([[5, 4, 2]])),
        pair("x y", "p q", logits[:, :2], torch.tensor([[5, 0]])),
    ]
    scores = Translation().score(pairs)
    score, signature = corpus_bleu(["a b c d e f", "x y"], ["a b c d e f", "p q"])
    assert (scores["bleu"].value, scores["bleu"].signature) == (pytest.approx(score), signature)
    assert (scores["bleu"].count, scores["token_accuracy"].count) == (2, 4)
    assert scores["token_accuracy"].value == pytest.approx(3 / 4)  # padding is no token


@needs_extra
def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="there was no sentence"):
        Translation().score([])
    with pytest.raises(ValueError, match="there was no token"):
        Translation().agreement([])


def test_agreement_is_a_share_of_tokens_over_all_batches():
    one = torch.eye(4)
    score = Translation().agreement([(one, one), (one[:1], one[1:2])])
    assert (score.value, score.count) == (4 / 5, 5)


@needs_extra
def test_the_bootstrap_finds_what_is_there_and_nothing_between_equals():
    better = [[9, 9, 9, 8, 7, 6, 9, 8, 7, 6]] * 30
    worse = [[9, 9, 5 + i % 3, 4, 3, 2, 9, 8, 7, 6] for i in range(30)]
    low, high, share = paired_bootstrap(better, worse, 200, from_seed(0))
    assert 0 < low < bleu_of([9, 9, 9, 8, 7, 6, 9, 8, 7, 6]) - 40 < high + 60
    assert share == 0
    assert paired_bootstrap(worse, worse, 50, from_seed(0)) == (0, 0, 1)


def test_without_the_library_it_is_said_before_a_sentence_is_translated(monkeypatch):
    def pairs():
        raise AssertionError("translated")
        yield

    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingExtraError, match=r"sacrebleu .*; pip install tokenizers sacrebleu"):
        Translation().score(pairs())
