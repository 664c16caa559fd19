import math

import pytest
import torch

from doublure.objectives.pkt import PKT, neighbour_probabilities, pkt_loss
from tests.objectives.features import learns, numbers

DEFAULTS = {"weight": 30_000.0, "find": "features"}


def test_it_agrees_with_a_loop_over_pairs():
    one, other = numbers(4, 3), numbers(4, 6, seed=1)

    def neighbours(points):
        rows = []
        for a in points.tolist():
            row = []
            for b in points.tolist():
                dot = sum(x * y for x, y in zip(a, b, strict=True))
                row.append((1 + dot / math.hypot(*a) / math.hypot(*b)) / 2)
            rows.append([value / sum(row) for value in row])
        return rows

    p, q = neighbours(other), neighbours(one)
    expected = sum(
        p[i][j] * math.log((p[i][j] + 1e-7) / (q[i][j] + 1e-7)) for i in range(4) for j in range(4)
    )
    assert pkt_loss(one, other).item() == pytest.approx(expected / 16)


def test_rows_are_distributions():
    rows = neighbour_probabilities(numbers(5, 3))
    torch.testing.assert_close(rows.sum(1), torch.ones(5, dtype=torch.float64))
    assert rows.min() >= 0


def test_turned_and_scaled_samples_agree():
    points, turn = numbers(5, 4), torch.linalg.qr(numbers(4, 4, seed=2))[0]
    assert pkt_loss(7 * points @ turn, points).item() == pytest.approx(0, abs=1e-15)


def test_opposite_vectors_leave_it_finite():
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert pkt_loss(points, points.flip(0) + 0.1).isfinite()


def test_the_student_learns_who_is_near_whom():
    first, last = learns(PKT(), "resnet8", "vgg8")
    assert last < 0.9 * first
