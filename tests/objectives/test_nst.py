import pytest
import torch

from doublure.objectives.nst import NST, selectivity_loss
from tests.objectives.features import learns, numbers

DEFAULTS = {"weight": 50.0, "find": "stages"}


@pytest.mark.parametrize("channels", [(3, 4), (6, 7)])  # fewer and more than the four places
def test_it_agrees_with_a_loop_over_pairs_of_channels(channels):
    student, teacher = (numbers(2, count, 2, 2, seed=i) for i, count in enumerate(channels))

    def units(features):
        return [channel.flatten() / channel.norm() for channel in features]

    def mean_kernel(one, other):
        return sum((a @ b) ** 2 for a in one for b in other) / (len(one) * len(other))

    for i in range(2):
        s, t = units(student[i]), units(teacher[i])
        expected = mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)
        assert selectivity_loss(student, teacher)[i].item() == pytest.approx(expected.item())


def test_the_order_sign_and_scale_of_channels_do_not_matter():
    features = numbers(2, 3, 4, 4)
    signs = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)[:, None, None]
    loss = selectivity_loss((signs * features)[:, [2, 0, 1]], features)
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-14, rtol=0)


def test_a_squared_discrepancy_is_never_negative():
    for seed in range(20):
        loss = selectivity_loss(numbers(1, 3, 2, 2, seed=seed), numbers(1, 5, 2, 2, seed=99 - seed))
        assert loss.item() >= 0


def test_the_student_learns_to_be_as_selective():
    first, last = learns(NST(), "resnet8", "vgg8")
    assert last < 0.9 * first
