import math

import pytest
import torch

from understudy.optional import reason_absent
from understudy.protocols import Batch
from understudy.seeding import from_seed
from understudy.tasks.translation import (
    Answer,
    Translation,
    bleu_counts,
    bleu_of,
    bleu_words,
    corpus_bleu,
    paired_bootstrap,
)

HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog."],
]


def test_a_corpus_with_two_references_has_the_score_that_sacrebleu_publishes():
    assert corpus_bleu(HYPOTHESES, REFERENCES) == pytest.approx(48.530827, abs=1e-6)


def test_counts_and_the_score_of_counts_are_those_that_sacrebleu_publishes():
    words = [
        line.split()
        for line in ("am I am a character sequence", "I am a symbol string sequence a a")
    ]
    assert bleu_counts(words[0], [words[1]]) == [6, 8, 4, 2, 1, 0, 6, 5, 4, 3]
    assert bleu_of([11, 11, 9, 7, 5, 3, 10, 8, 6, 4]) == pytest.approx(83.75922397)


def test_it_is_no_mean_over_sentences():
    hypotheses, references = ["a b c d e f", "x y"], [["a b c d e f"], ["p q"]]
    by_hand = 100 * (6 / 8 * 5 / 6 * 4 / 4 * 3 / 3) ** 0.25
    assert corpus_bleu(hypotheses, references) == pytest.approx(by_hand)
    alone = [corpus_bleu([h], [r]) for h, r in zip(hypotheses, references, strict=True)]
    assert sum(alone) / 2 < by_hand - 10


def test_the_length_of_the_references_counts_where_translations_are_shorter():
    by_hand = 100 * math.exp(1 - 8 / 5)
    assert corpus_bleu(["a b c d e"], [["a b c d e f g h"]]) == pytest.approx(by_hand)


def test_a_missing_order_is_smoothed_by_halves():
    by_hand = 100 * (3 / 4 * 1 / 3 * 0.5 / 2 * 0.25 / 1) ** 0.25
    assert corpus_bleu(["a b x c"], [["a b y c"]]) == pytest.approx(by_hand)


def test_nothing_in_common_and_nothing_said_are_zero():
    assert corpus_bleu(["a b c d e"], [["v w x y z"]]) == 0
    assert corpus_bleu([""], [["a b"]]) == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Hello, world.", "Hello , world ."),
        ("It's 3.5, or 1,000!", "It's 3.5 , or 1,000 !"),
        ("a well-known 5-year", "a well-known 5 - year"),
        ("&quot;A&amp;B&quot;", '" A & B "'),
        ("(one/two) <x>", "( one / two ) < x >"),
        ("end.", "end ."),
    ],
)
def test_words_are_those_of_mteval(line, words):
    assert bleu_words(line) == words.split()


def test_it_is_what_sacrebleu_computes():
    if reason_absent("sacrebleu"):
        pytest.skip("sacrebleu is not installed")
    from understudy.optional import require

    sacrebleu = require("sacrebleu")
    rng = from_seed(0)
    vocabulary = ["a", "dog", "man,", "3.5", "it's", "runs.", "(x)", "--", "5-year"]
    for count in (1, 5, 40):
        lines = [
            [" ".join(vocabulary[i] for i in torch.randint(9, (9,), generator=rng)) for _ in "ab"]
            for _ in range(count)
        ]
        hypotheses, references = [a for a, _ in lines], [b for _, b in lines]
        expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
        made = corpus_bleu(hypotheses, [[line] for line in references])
        assert made == pytest.approx(expected, abs=1e-9)


def pair(text, reference, logits, labels):
    mask = labels != 0
    batch = Batch(views={"reference": (reference,)}, labels=labels, mask=mask)
    return Answer(logits=logits, text=(text,)), batch


def test_scores_are_taken_over_the_corpus_whatever_the_batches():
    logits = torch.zeros(1, 3, 6)
    logits[0, 0, 5], logits[0, 1, 4], logits[0, 2, 3] = 9.0, 9.0, 9.0
    pairs = [
        pair("a b c d e f", "a b c d e f", logits, torch.tensor([[5, 4, 2]])),
        pair("x y", "p q", logits[:, :2], torch.tensor([[5, 0]])),
    ]
    scores = Translation().score(pairs)
    assert scores["bleu"].value == pytest.approx(
        corpus_bleu(["a b c d e f", "x y"], [["a b c d e f"], ["p q"]])
    )
    assert (scores["bleu"].count, scores["token_accuracy"].count) == (2, 4)
    assert scores["token_accuracy"].value == pytest.approx(3 / 4)  # padding is no token


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="there was no sentence"):
        Translation().score([])
    with pytest.raises(ValueError, match="there was no token"):
        Translation().agreement([])


def test_agreement_is_a_share_of_tokens_over_all_batches():
    one = torch.eye(4)
    score = Translation().agreement([(one, one), (one[:1], one[1:2])])
    assert (score.value, score.count) == (4 / 5, 5)


def test_the_bootstrap_finds_what_is_there_and_nothing_between_equals():
    better = [[9, 9, 9, 8, 7, 6, 9, 8, 7, 6]] * 30
    worse = [[9, 9, 5 + i % 3, 4, 3, 2, 9, 8, 7, 6] for i in range(30)]
    low, high, share = paired_bootstrap(better, worse, 200, from_seed(0))
    assert 0 < low < bleu_of([9, 9, 9, 8, 7, 6, 9, 8, 7, 6]) - 40 < high + 60
    assert share == 0
    assert paired_bootstrap(worse, worse, 50, from_seed(0)) == (0, 0, 1)
