import pytest
import torch
import torch.nn.functional as F

from doublure.objectives.review_kd import Fusion, ReviewKD, hierarchical_context_loss
from tests.objectives.features import asked, built, learns, numbers, opened

DEFAULTS = {"weight": 5.0, "find": "stages"}
EXAMPLES = (ReviewKD(warmup_steps=4),)


def test_a_map_of_8_is_compared_at_four_scales():
    one, other = numbers(2, 3, 8, 8), numbers(2, 3, 8, 8, seed=1)
    expected = F.mse_loss(one, other)
    for weight, scale in ((1 / 2, 4), (1 / 4, 2), (1 / 8, 1)):
        side = 8 // scale
        pooled = [x.reshape(2, 3, scale, side, scale, side).mean((3, 5)) for x in (one, other)]
        expected = expected + weight * F.mse_loss(*pooled)
    torch.testing.assert_close(hierarchical_context_loss(one, other), expected / 1.875)


def test_a_map_of_one_place_is_compared_as_it_is():
    one, other = numbers(2, 3, 1, 1), numbers(2, 3, 1, 1, seed=1)
    torch.testing.assert_close(hierarchical_context_loss(one, other), F.mse_loss(one, other))


def test_levels_are_the_stages_before_their_activation_and_the_features():
    loss = opened(ReviewKD(), built("resnet8"), built("vgg8"))
    assert loss.features.teacher == ("block0", "block1", "block4", "classifier:input")
    assert loss.features.student[-1] == "linear:input"


def test_deeper_levels_reach_shallower_ones():
    fusion = Fusion(4, 8, 6, torch.Generator().manual_seed(0), deepest=False)
    features = torch.rand(2, 4, 8, 8)
    one, _ = fusion(features, torch.zeros(2, 8, 4, 4), (8, 8))
    other, residual = fusion(features, torch.ones(2, 8, 4, 4), (8, 8))
    assert one.shape == (2, 6, 8, 8)
    assert residual.shape == (2, 8, 8, 8)
    assert not torch.equal(one, other)


def test_it_rises_over_its_warm_up():
    student, teacher = built("resnet8", 1).eval(), built("vgg8").eval()
    whole = opened(ReviewKD(), student, teacher)
    rising = opened(ReviewKD(warmup_steps=4), student, teacher)
    expected = asked(whole, student, teacher)["review"].item()
    assert asked(rising, student, teacher)["review"].item() == pytest.approx(expected / 4)


@pytest.mark.parametrize("student", ["resnet8", "mobilenetv2-0.5"])
def test_the_student_learns(student):
    first, last = learns(ReviewKD(), student, "vgg8")
    assert last < 0.9 * first
