import pytest
import torch

from doublure.objectives.fit_nets import FitNets, hint_loss
from doublure.objectives.pairing import Layers
from tests.objectives.features import asked, built, learns, numbers, opened

DEFAULTS = {"weight": 100.0, "find": "middle"}


def test_it_is_the_mean_over_elements_of_each_sample():
    one, other = numbers(3, 2, 4, 4), numbers(3, 2, 4, 4, seed=1)
    by_hand = [((a - b) ** 2).sum() / 32 for a, b in zip(one, other, strict=True)]
    torch.testing.assert_close(hint_loss(one, other), torch.stack(by_hand))


def test_the_regressor_is_trained_with_the_student():
    first, last = learns(FitNets(), "resnet8-0.5", "vgg8")
    assert last < 0.95 * first


def test_the_middle_stage_is_the_hint():
    loss = opened(FitNets(), built("resnet8"), built("vgg8"))
    assert loss.features.student == ("layer2",)
    assert loss.features.teacher == ("block1",)


def test_named_layers_of_several_pairs_are_summed():
    student, teacher = built("resnet8", 1), built("resnet8")
    layers = Layers(student=("layer1", "layer3"), teacher=("layer1", "layer3"))
    terms = asked(opened(FitNets(layers=layers), student, teacher), student, teacher)
    assert list(terms) == ["hints"]


def test_a_weight_of_zero_is_refused():
    with pytest.raises(ValueError, match="weight must be positive, got 0"):
        FitNets(weight=0)
