import numpy as np
import pytest
import torch

from doublure.audits import saliency_measures as measures
from tests.tiny import rng

RNG = np.random.default_rng


def random_maps(count, side=16, seed=0):
    return RNG(seed).normal(size=(count, side * side))


def test_similarities_are_one_with_oneself_symmetric_and_blind_to_monotone_change():
    one, other = random_maps(3), random_maps(3, seed=1)
    for measure in (measures.spearman, measures.top_overlap):
        np.testing.assert_allclose(measure(one, one), 1)
        np.testing.assert_allclose(measure(one, other), measure(other, one))
        np.testing.assert_allclose(measure(np.exp(one), other), measure(one, other))
    square = torch.from_numpy(one).view(3, 16, 16)
    torch.testing.assert_close(
        measures.structural_similarity(square, 2 * square + 1), torch.ones(3).double()
    )


def test_random_maps_are_alike_by_chance_alone():
    one, other = random_maps(200), random_maps(200, seed=1)
    assert abs(measures.spearman(one, other).mean()) < 3 / (16 * 200**0.5)
    assert measures.top_overlap(one, other).mean() == pytest.approx(0.0526, abs=0.01)


def test_a_constant_map_is_like_no_other():
    assert measures.spearman(np.ones((1, 9)), random_maps(1, 3))[0] == 0


def test_ties_are_drawn_by_lot_and_not_from_left_to_right():
    flat = torch.zeros(8, 8)
    orders = [measures.tile_order(flat, 2, rng(seed)) for seed in range(2)]
    assert not torch.equal(*orders)
    assert not torch.equal(orders[0].flatten(), orders[0].flatten().sort().values)
    assert torch.equal(orders[0], measures.tile_order(flat, 2, rng(0)))


def test_deletion_begins_at_the_image_and_ends_at_the_baseline():
    order = measures.tile_order(torch.arange(64.0).view(8, 8), 2, rng())
    masks = measures.deletion_masks(order, 4, most_first=True)
    assert masks.mean((1, 2)).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert masks[1, -2:].sum() == 0  # the largest values lie below
    least = measures.deletion_masks(order, 4, most_first=False)
    torch.testing.assert_close(least.flip(0), 1 - masks)


def test_of_a_linear_score_both_orders_sum_to_its_ends_and_its_own_order_is_best():
    w = torch.randn(1, 6, 6, generator=rng(), dtype=torch.float64)
    x, b = torch.rand(2, 1, 6, 6, generator=rng(1), dtype=torch.float64)

    def f(images):
        return (images * w).sum((1, 2, 3))

    def area(saliency, most_first):
        order = measures.tile_order(saliency, 1, rng())
        curve = measures.deletion_curve(f, x, b, order, 36, 10, most_first=most_first)
        return float(measures.curve_area(curve.numpy()[None])[0])

    exact = (w * (x - b))[0]
    ends = (f(x[None]) + f(b[None])).item()
    assert area(exact, True) + area(exact, False) == pytest.approx(ends)
    others = [area(torch.rand(6, 6, generator=rng(seed)), True) for seed in range(5)]
    assert area(exact, True) < min(others)
    # A map made with one baseline is scored worse with the other than that one's own map.
    other = (w * x)[0]
    assert area(exact, True) < area(other, True)


def test_a_baseline_as_likely_as_the_image_has_no_normalised_area():
    curves = np.array([[1.0, 0.5, 0.0], [0.4, 0.5, 0.4]])
    found = measures.normalised_area(curves)
    assert found[0] == 0.5
    assert np.isnan(found[1])


def test_concordance_by_hand():
    same = np.array([[1.0, 2, 3], [4, 5, 6]])
    assert measures.kendall_w(same) == 1
    assert measures.order_flips(same) == 0
    against = np.array([[1.0, 2, 3], [3, 2, 1]])
    assert measures.kendall_w(against) == 0
    assert measures.order_flips(against) == 1
    assert measures.kendall_tau(*against) == -1


def planted(strength):
    base = RNG(0).normal(size=(6, 1, 1, 30)) + RNG(1).normal(size=(6, 3, 1, 30))
    moved = strength * RNG(2).normal(size=(1, 1, 4, 30))
    return base + moved + 0.5 * RNG(3).normal(size=(6, 3, 4, 30))


def test_shares_of_variance_sum_to_one_and_find_what_was_planted():
    without, with_it = (measures.nested_shares(planted(strength)) for strength in (0.0, 2.0))
    assert sum(with_it.values()) == pytest.approx(1)
    assert without["baseline"] < 0.1 < 0.4 < with_it["baseline"]
    assert measures.baseline_p_value(planted(2.0), 99, RNG(0)) == 0.01
    assert measures.baseline_p_value(planted(0.0), 99, RNG(0)) > 0.05


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        drawn = RNG(seed).normal(size=40)
        found = measures.bootstrap({"one": drawn}, 0.9, 300, RNG(seed))["one"]
        assert found.low <= found.value <= found.high
        covered += found.low <= 0 <= found.high
    assert 82 <= covered <= 98


def test_a_gap_is_taken_image_by_image():
    drawn = RNG(0).normal(size=30)
    gap = measures.bootstrap_gap(drawn + 1, drawn, 0.95, 200, RNG(0))
    np.testing.assert_allclose(gap, 1)
