import pytest

from doublure.audits.ranking import goodness, places, standing
from doublure.audits.transfer_tally import Estimate


def near(value, reach=0.1):
    return Estimate(value=value, low=value - reach, high=value + reach)


def test_sets_rank_by_the_distance_from_the_data_the_nearest_first():
    measurements = [{"bn_distance": near(d), "pair_coverage": near(d)} for d in (0.9, 0.2, 1.5)]
    assert places([standing(one) for one in measurements]) == [2, 1, 3]
    assert str(standing(measurements[0])) == "bn_distance 0.9, lower is better"


def test_without_batchnorm_they_rank_by_the_pairs_of_classes_the_most_first():
    measurements = [{"pair_coverage": near(c), "class_entropy": near(0.1)} for c in (0.2, 0.9, 0.5)]
    assert places([standing(one) for one in measurements]) == [3, 1, 2]


def test_sets_whose_intervals_overlap_share_a_place():
    measurements = [{"bn_distance": near(d)} for d in (0.20, 0.30, 0.45, 0.9)]
    assert places([standing(one) for one in measurements]) == [1, 1, 2, 4]


def test_goodness_has_the_order_of_the_places():
    for name, values in {"bn_distance": (0.1, 0.4, 2.0), "pair_coverage": (0.9, 0.5, 0.0)}.items():
        scores = [goodness({name: value}) for value in values]
        assert scores == sorted(scores, reverse=True)


def test_sets_of_two_kinds_of_teacher_cannot_be_compared():
    with pytest.raises(ValueError, match="score both for the same teacher"):
        places([standing({"bn_distance": near(1)}), standing({"pair_coverage": near(1)})])
