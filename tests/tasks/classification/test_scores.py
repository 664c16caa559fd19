import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.findings import Task
from doublure.core.protocols import image_batch
from doublure.core.statistics import top1_equal, wilson_interval
from doublure.tasks.classification.scores import (
    Classification,
    calibration_error,
    confidence_bins,
    negative_log_likelihood,
    top1_correct,
)


def batch(*labels, dtype=torch.int64):
    return image_batch(torch.zeros(len(labels), 1, 1, 1), labels=torch.tensor(labels, dtype=dtype))


def drawn(seed, count=40, classes=4):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=rng) * 3
    return logits, torch.randint(0, classes, (count,), generator=rng)


def in_batches(logits, labels, size):
    parts = zip(logits.split(size), labels.split(size), strict=True)
    return [(part, batch(*some.tolist())) for part, some in parts]


def test_it_is_a_task():
    assert isinstance(Classification(), Task)


def test_the_first_of_equal_logits_is_the_answer():
    logits = torch.tensor([[1.0, 1.0, 0.0]])
    assert top1_correct(logits, torch.tensor([0])).tolist() == [True]
    assert top1_correct(logits, torch.tensor([1])).tolist() == [False]


def test_three_images_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    scores = Classification().score([(logits, batch(0, 1, 0))])
    sure = 1 / (1 + math.exp(-2.0))
    assert scores["accuracy"].value == pytest.approx(2 / 3)
    assert scores["nll"].value == pytest.approx((-math.log(sure) - math.log(0.75 * 0.25)) / 3)
    # Bins: sure = 0.88 alone and right; 0.75 twice, once right.
    error = (1 - sure) / 3 + abs(1 - 1.5) / 3
    assert scores["calibration_error"].value == pytest.approx(error, abs=1e-7)
    assert {score.count for score in scores.values()} == {3}


@given(seed=st.integers(0, 99), size=st.integers(1, 40))
def test_how_the_images_were_batched_does_not_matter(seed, size):
    logits, labels = drawn(seed)
    whole = Classification().score(in_batches(logits, labels, 40))
    parts = Classification().score(in_batches(logits, labels, size))
    for name, score in whole.items():
        assert parts[name].value == pytest.approx(score.value, abs=1e-6)


def test_probabilities_that_come_true_are_calibrated():
    # 3 of 4 images right at a confidence of 3/4 each.
    logits = torch.tensor([[0.0, math.log(3.0)]]).expand(4, 2)
    scores = Classification().score([(logits, batch(1, 1, 1, 0))])
    assert scores["calibration_error"].value == pytest.approx(0.0, abs=1e-7)


def test_a_bin_owns_its_upper_edge():
    confidence = torch.tensor([0.0, 0.25, 0.26, 0.5, 1.0])
    assert confidence_bins(confidence, 4).tolist() == [0, 0, 1, 1, 3]


def test_empty_bins_add_nothing():
    correct, sure = torch.tensor([0.0, 3.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    assert calibration_error(correct, sure, 4).item() == pytest.approx(0.25)


def test_the_likelihood_of_two_even_classes_is_a_half():
    nll = negative_log_likelihood(torch.zeros(1, 2), torch.tensor([1]))
    assert nll.item() == pytest.approx(math.log(2.0))


@given(seed=st.integers(0, 99))
def test_the_confusion_table_holds_every_image_and_the_tally_its_diagonal(seed):
    logits, labels = drawn(seed)
    pairs = in_batches(logits, labels, 7)
    table, tally = Classification().confusion(pairs), Classification().tally(pairs)
    assert table.diagonal().tolist() == tally.correct.tolist()
    assert table.sum(1).tolist() == tally.count.tolist()
    for label, answer in zip(labels, logits.argmax(-1), strict=True):
        table[label, answer] -= 1
    assert not table.any()


def test_agreement_counts_equal_answers_of_two_networks():
    student, teacher = (
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[5.0, 4.0], [9.0, 1.0]]),
    )
    assert top1_equal(student, teacher).tolist() == [True, False]
    score = Classification().agreement([(student, teacher), (student, student)])
    assert (score.value, score.count) == (0.75, 4)


def test_half_precision_is_scored_in_float32():
    logits, labels = drawn(0)
    half = Classification().score([(logits.bfloat16(), batch(*labels.tolist()))])
    full = Classification().score([(logits.bfloat16().float(), batch(*labels.tolist()))])
    assert half == full


def test_minus_infinity_is_an_answer():
    logits = torch.tensor([[0.0, -math.inf]])
    assert Classification().score([(logits, batch(0))])["accuracy"].value == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_no_answers(value):
    logits = torch.tensor([[0.0, value], [0.0, 1.0]])
    with pytest.raises(ValueError, match="logits are NaN or infinite for 1 of 2 images"):
        Classification().score([(logits, batch(0, 0))])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 2), batch(0, 2), "labels from 0 to 2 do not fit a network of 2 classes"),
        (torch.zeros(2, 2), batch(0, -1), "labels from -1 to 0"),
        (torch.zeros(2, 2), batch(0.0, 1.0, dtype=torch.float32), "int64 class indices"),
        (torch.zeros(2, 2, 2), batch(0, 1), r"shape \(batch, classes\), got shape \(2, 2, 2\)"),
        ({"logits": torch.zeros(2, 2)}, batch(0, 1), "got <class 'dict'>"),
        (torch.zeros(2, 2), image_batch(torch.zeros(2, 1, 1, 1)), "this batch has no labels"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        Classification().score([(logits, labels)])


def test_nothing_is_no_score():
    for ask in (Classification().score, Classification().confusion, Classification().agreement):
        with pytest.raises(ValueError, match="there was no batch"):
            ask([])


def test_wilsons_interval_by_hand():
    # z = 1.959964, 8 of 10: centre (0.8 + z^2/20) / (1 + z^2/10), the textbook's 0.4901 to 0.9433.
    low, high = wilson_interval(8, 10)
    assert (low, high) == (pytest.approx(0.49016, abs=1e-5), pytest.approx(0.94332, abs=1e-5))


@given(count=st.integers(1, 10_000), part=st.floats(0, 1), level=st.floats(0.01, 0.99))
def test_wilsons_interval_holds_the_share_and_stays_in_zero_to_one(count, part, level):
    correct = round(part * count)
    low, high = wilson_interval(correct, count, level)
    assert 0 <= low <= correct / count <= high <= 1


@given(count=st.integers(1, 1000), part=st.floats(0, 1))
def test_wilsons_interval_mirrors_right_and_wrong(count, part):
    correct = round(part * count)
    low, high = wilson_interval(correct, count)
    assert wilson_interval(count - correct, count) == (
        pytest.approx(1 - high, abs=1e-12),
        pytest.approx(1 - low, abs=1e-12),
    )


@pytest.mark.parametrize(
    ("correct", "count", "level", "message"),
    [
        (0, 0, 0.95, "count must be positive"),
        (11, 10, 0.95, r"correct must lie in \[0, 10\], got 11"),
        (5, 10, 95, r"level must lie in \(0, 1\), got 95"),
    ],
)
def test_an_impossible_share_is_refused(correct, count, level, message):
    with pytest.raises(ValueError, match=message):
        wilson_interval(correct, count, level)
