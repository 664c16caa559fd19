import math

import pytest
import torch

from doublure.objectives.attention_transfer import (
    AttentionTransfer,
    attention_loss,
    attention_map,
)
from tests.objectives.features import learns, numbers

DEFAULTS = {"weight": 1000.0, "places": 64, "power": 2.0, "find": "stages"}

STUDENT = torch.tensor([[[[1.0, 2.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]]]], dtype=torch.float64)
TEACHER = torch.tensor([[[[2.0, 0.0], [0.0, 1.0]]]], dtype=torch.float64)


def test_two_small_maps_by_hand():
    assert attention_loss(STUDENT, TEACHER, 2.0).item() == pytest.approx(0.3693179, abs=5e-8)


def test_it_agrees_with_a_loop_over_places():
    student, teacher = numbers(2, 3, 4, 4), numbers(2, 5, 4, 4, seed=1)

    def attention(features):
        energy = [[sum(abs(c[y, x]) ** 2 for c in features) for x in range(4)] for y in range(4)]
        flat = [float(value) for row in energy for value in row]
        length = math.sqrt(sum(value**2 for value in flat))
        return [value / length for value in flat]

    for i in range(2):
        pairs = zip(attention(student[i]), attention(teacher[i]), strict=True)
        expected = sum((a - b) ** 2 for a, b in pairs) / 16
        assert attention_loss(student, teacher, 2.0)[i].item() == pytest.approx(expected)


def test_neither_scale_nor_sign_nor_order_of_channels_matters():
    features = numbers(2, 3, 4, 4)
    loss = attention_loss(-3 * features[:, [2, 0, 1]], features, 2.0)
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-15, rtol=0)


def test_the_larger_map_is_averaged_after_the_energies_were_taken():
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(2, 2)[None, None]
    flat = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert attention_loss(checks, flat, 2.0).item() == 0.0
    assert attention_map(checks, 2.0).shape == (1, 1, 4, 4)


def test_at_the_size_of_the_weight_it_is_the_public_loss_and_a_unit_of_distance_weighs_the_same():
    """Blocks of 2 x 2 equal values are as far apart as one value each, on a quarter of places."""
    student, teacher = numbers(2, 3, 8, 8), numbers(2, 5, 8, 8, seed=1)
    objective = AttentionTransfer()
    stated = objective._terms([(student, teacher)])["attention"]
    torch.testing.assert_close(stated, 1000 * attention_loss(student, teacher, 2.0).mean())
    larger = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (student, teacher)]
    torch.testing.assert_close(objective._terms([(larger[0], larger[1])])["attention"], stated)


def test_the_student_learns_where_to_look():
    first, last = learns(AttentionTransfer(), "resnet8", "vgg8")
    assert last < 0.9 * first
