import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.audits.transfer_diagnostics import (
    answer_entropy,
    bn_distance,
    class_entropy,
    count_pairs,
    entropy_bias,
    feature_rank,
    has_duplicate,
    margins,
    merge_pairs,
    min_class_share,
    mutual_information,
    nearest_centre,
    pair_coverage,
    uncovered,
)
from doublure.core.seeding import from_seed

counts = st.lists(st.integers(0, 400), min_size=2, max_size=12).filter(sum)


def entropy(*histogram: float) -> float:
    return class_entropy(torch.tensor(histogram)).item()


def logits(images: int, classes: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    numbers = torch.randn(images, classes, generator=from_seed(seed), dtype=torch.float64)
    return scale * numbers


def coverage(answers: torch.Tensor) -> float:
    ones = torch.ones(1, len(answers), dtype=torch.float64)
    return pair_coverage(*count_pairs(answers, ones), answers.shape[1]).item()


def information(answers: torch.Tensor) -> float:
    log_p = answers.log_softmax(-1)
    return mutual_information(log_p.exp().mean(0), answer_entropy(log_p).mean()).item()


def ordered_pairs(classes: int, times: int) -> torch.Tensor:
    """Logits in which every ordered pair (top-1, top-2) occurs `times` times."""
    first, second = (~torch.eye(classes, dtype=torch.bool)).nonzero().unbind(1)
    answers = torch.zeros(len(first), classes, dtype=torch.float64)
    rows = torch.arange(len(first))
    answers[rows, first], answers[rows, second] = 2.0, 1.0
    return answers.repeat(times, 1)


def test_an_even_set_has_entropy_one_and_one_class_has_none():
    assert entropy(7, 7, 7, 7) == pytest.approx(1.0, abs=1e-15)
    assert entropy(0, 28, 0, 0) == 0.0


@pytest.mark.parametrize("seen", [1, 2, 5])
def test_k_equal_classes_of_c_have_entropy_log_k_over_log_c(seen):
    histogram = [11] * seen + [0] * (8 - seen)
    assert entropy(*histogram) == pytest.approx(math.log(seen) / math.log(8), abs=1e-14)


@given(histogram=counts, seed=st.integers(0, 9))
def test_the_names_of_the_classes_do_not_matter(histogram, seed):
    shuffled = torch.tensor(histogram)[torch.randperm(len(histogram), generator=from_seed(seed))]
    for figure in (class_entropy, min_class_share):
        torch.testing.assert_close(figure(shuffled), figure(torch.tensor(histogram)))


@given(histogram=counts, times=st.integers(2, 9))
def test_showing_a_set_twice_changes_nothing(histogram, times):
    for figure in (class_entropy, min_class_share):
        once, often = torch.tensor(histogram), times * torch.tensor(histogram)
        torch.testing.assert_close(figure(often), figure(once))


@given(histogram=counts)
def test_a_starved_class_more_never_helps(histogram):
    before, after = torch.tensor(histogram), torch.tensor([*histogram, 0])
    assert class_entropy(after) <= class_entropy(before) + 1e-12
    assert min_class_share(after) <= min_class_share(before)
    assert uncovered(after, 5) > uncovered(before, 5)


def test_the_rarest_class_share_by_hand():
    assert min_class_share(torch.tensor([10, 20, 30])).item() == pytest.approx(0.5)
    assert uncovered(torch.tensor([0, 4, 5, 6]), 5).item() == 2


def test_several_sets_are_counted_at_once():
    both = torch.tensor([[5.0, 5.0], [10.0, 0.0]], dtype=torch.float64)
    assert class_entropy(both).tolist() == [1.0, 0.0]
    assert min_class_share(both).tolist() == [1.0, 0.0]


def test_the_entropy_of_few_images_is_too_low_by_miller_and_madows_term():
    rng, classes, images = from_seed(0), 10, 200
    drawn = torch.randint(classes, (4000, images), generator=rng)
    histograms = torch.nn.functional.one_hot(drawn, classes).sum(1)
    missing = 1 - class_entropy(histograms).mean().item()
    assert missing == pytest.approx((classes - 1) / (2 * images * math.log(classes)), rel=0.03)
    assert entropy_bias(histograms).mean().item() == pytest.approx(missing, rel=0.03)


@pytest.mark.parametrize("classes", [2, 3, 10, 50])
def test_a_set_of_all_ordered_pairs_covers_them_all(classes):
    assert coverage(ordered_pairs(classes, times=3)) == 1.0
    assert coverage(ordered_pairs(classes, times=2)) == 0.0


def test_the_diagonal_is_no_pair():
    one_pair = ordered_pairs(4, times=1)[:1].repeat(3, 1)
    assert coverage(one_pair) == pytest.approx(1 / (4 * 3))


def test_in_a_large_set_three_images_are_not_enough():
    common = ordered_pairs(2, times=1)
    answers = torch.cat([common[:1].repeat(795, 1), common[1:].repeat(5, 1)])
    assert coverage(answers) == 0.5  # 800 / (20 * 2^2) = 10 are asked for
    assert coverage(torch.cat([answers, common[1:].repeat(6, 1)])) == 1.0


def test_with_many_classes_ten_partners_each_are_enough():
    classes = 60
    every = ordered_pairs(classes, times=3)
    near = (every.topk(2).indices.diff(dim=-1) % classes <= 10).squeeze(1)
    assert coverage(every[near]) == 1.0
    assert coverage(every[near & (every.argmax(-1) > 0)]) == pytest.approx(59 / 60)
    assert coverage(every) == 1.0


def test_pairs_counted_batch_by_batch_are_those_of_the_whole():
    answers = logits(300, 70)
    weights = torch.rand(2, 300, generator=from_seed(1), dtype=torch.float64)
    parts = [
        count_pairs(answers[place], weights[:, place]) for place in (slice(0, 40), slice(40, 300))
    ]
    keys, sums = merge_pairs(torch.cat([k for k, _ in parts]), torch.cat([c for _, c in parts], 1))
    whole_keys, whole_sums = count_pairs(answers, weights)
    assert torch.equal(keys, whole_keys)
    torch.testing.assert_close(sums, whole_sums)


def test_answers_that_never_change_tell_nothing():
    assert information(logits(1, 6).repeat(50, 1)) == pytest.approx(0.0, abs=1e-12)


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 30))
def test_information_lies_between_zero_and_the_entropy_of_the_mean_answer(seed, scale):
    answers = logits(40, 5, seed, scale)
    mean = answers.softmax(-1).mean(0)
    marginal = torch.special.entr(mean).sum().item() / math.log(5)
    assert 0.0 <= information(answers) <= marginal + 1e-12


def test_the_information_of_certain_answers_is_the_class_entropy():
    answers = 1e4 * torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 2]), 4).double()
    assert information(answers) == pytest.approx(entropy(2, 1, 1, 0), abs=1e-12)


def test_the_entropy_of_an_answer_by_hand():
    p = torch.tensor([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    by_hand = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert answer_entropy(p.log()).tolist() == pytest.approx([by_hand, 1.0, 0.0])
    assert margins(p).tolist() == pytest.approx([0.5, 0.0, 1.0])


def test_a_single_class_has_no_pairs_and_no_information():
    answers = torch.zeros(5, 1, dtype=torch.float64)
    assert entropy(5) == 1.0
    assert coverage(answers) == 1.0
    assert information(answers) == 0.0
    assert margins(answers).tolist() == [1.0] * 5


def test_stored_statistics_are_at_distance_zero_and_others_by_hand():
    mean, variance = torch.tensor([1.0, -2.0]).double(), torch.tensor([4.0, 0.5]).double()
    torch.testing.assert_close(
        bn_distance(mean, variance, mean, variance, 1e-5), torch.zeros(2).double()
    )
    moved = bn_distance(mean + 2, math.e * variance, mean, variance, 0.0)
    torch.testing.assert_close(moved, torch.tensor([4 / 4 + 0.5, 4 / 0.5 + 0.5]).double())


def test_the_rank_counts_equal_directions():
    on_two_axes = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert feature_rank(on_two_axes) == pytest.approx(2.0)
    assert feature_rank(on_two_axes[:2]) == pytest.approx(1.0)
    assert feature_rank(torch.ones(4, 3)) == 0.0


def test_only_images_that_occur_twice_are_duplicates():
    features = torch.randn(1500, 16, generator=from_seed(0))
    assert not has_duplicate(features, 0.999).any()
    features[1400] = 2 * features[3]  # a cosine does not see lengths
    assert has_duplicate(features, 0.999).nonzero().flatten().tolist() == [3, 1400]


def test_images_belong_to_the_nearest_centre():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    assert nearest_centre(torch.tensor([[4.9, 3.0], [5.1, -3.0]]), centres).tolist() == [0, 1]
