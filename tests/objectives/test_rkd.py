import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.objectives.rkd import RKD, angle_loss, distance_loss, relative_distances
from tests.objectives.features import asked, built, numbers, opened

DEFAULTS = {"distance_weight": 25.0, "angle_weight": 50.0, "find": "features"}

STUDENT = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.0, 0, 0], [3.0, 0, 0], [0, 4.0, 0]], dtype=torch.float64)


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def test_three_points_by_hand():
    assert distance_loss(STUDENT, TEACHER).item() == pytest.approx(0.00595598, abs=5e-9)
    assert angle_loss(STUDENT, TEACHER).item() == pytest.approx(0.00119482, abs=5e-9)


def test_it_agrees_with_loops_over_pairs_and_triplets():
    one, other = numbers(5, 3).tolist(), numbers(5, 7, seed=1).tolist()

    def distances(points):
        all_of = {(i, j): math.dist(points[i], points[j]) for i in range(5) for j in range(5)}
        mean = sum(all_of.values()) / 20
        return {key: value / mean for key, value in all_of.items()}

    def angle(points, i, j, k):
        a, b = math.dist(points[i], points[j]), math.dist(points[k], points[j])
        if a == 0 or b == 0:
            return 0.0
        dot = sum(
            (x - z) * (y - z) for x, y, z in zip(points[i], points[k], points[j], strict=True)
        )
        return dot / a / b

    ours, theirs = distances(one), distances(other)
    expected = sum(huber(ours[key] - theirs[key]) for key in ours) / 25
    tensors = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    assert distance_loss(*tensors).item() == pytest.approx(expected)
    triplets = itertools.product(range(5), repeat=3)
    expected = sum(huber(angle(one, *t) - angle(other, *t)) for t in triplets) / 125
    assert angle_loss(*tensors).item() == pytest.approx(expected)


@given(scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_moving_turning_and_scaling_the_samples_changes_nothing(scale, shift):
    points = numbers(6, 4)
    turn = torch.linalg.qr(numbers(4, 4, seed=2))[0]
    moved = scale * points @ turn + shift
    assert distance_loss(moved, points).item() == pytest.approx(0, abs=1e-12)
    assert angle_loss(moved, points).item() == pytest.approx(0, abs=1e-12)


def test_samples_that_fall_together_leave_the_gradient_finite():
    points = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    (distance_loss(points, numbers(4, 3)) + angle_loss(points, numbers(4, 3))).backward()
    assert points.grad.isfinite().all()
    assert relative_distances(points).eq(0).all()


def test_a_weight_of_zero_leaves_a_term_out():
    student, teacher = built("resnet8", 1), built("vgg8")
    terms = asked(opened(RKD(angle_weight=0.0), student, teacher), student, teacher)
    assert list(terms) == ["rkd_distance"]
    with pytest.raises(ValueError, match="one must be positive"):
        RKD(distance_weight=0.0, angle_weight=0.0)
