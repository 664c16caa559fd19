import copy

import pytest
import torch
from torch import nn

from doublure.nets.network import freeze
from doublure.objectives.srrl import SRRL, squared_difference
from tests.objectives.features import BATCH, asked, built, learns, numbers, opened

DEFAULTS = {"feature_weight": 1.0, "regression_weight": 1.0}


def test_it_is_the_mean_over_channels():
    one, other = numbers(3, 4), numbers(3, 4, seed=1)
    torch.testing.assert_close(squared_difference(one, other), ((one - other) ** 2).sum(1) / 4)


def test_the_teachers_classifier_is_borrowed_and_stays_as_it_is():
    student, teacher = built("resnet8", 1), built("vgg8")
    before = copy.deepcopy(teacher.state_dict())
    loss = opened(SRRL(), student, teacher)
    sum(asked(loss, student, teacher).values()).backward()
    assert not any("classifier" in name for name, _ in loss.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert student.layer3[0].conv2.weight.grad.abs().sum() > 0
    assert student.linear.weight.grad is None


def test_a_student_that_has_the_teachers_features_says_the_same():
    loss = opened(SRRL(), built("resnet8"), built("vgg8"))
    features = torch.rand(4, 512, 1, 1)
    assert all(value == 0 for value in loss._compare([(features, features)]).values())


def test_signed_features_are_adapted_without_a_relu():
    signed = opened(SRRL(), built("resnet8"), built("vit-small"))
    positive = opened(SRRL(), built("resnet8"), built("vgg8"))
    assert isinstance(signed.adapters[0].relu, nn.Identity)
    assert isinstance(positive.adapters[0].relu, nn.ReLU)


def test_the_student_learns():
    first, last = learns(SRRL(), "resnet8", "vgg8")
    assert last < first


def test_a_teacher_without_a_linear_classifier_is_refused():
    teacher = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with pytest.raises(
        ValueError, match="the last layer of the teacher is not linear; use fit-nets"
    ):
        SRRL().open(built("resnet8"), freeze(teacher), BATCH, torch.Generator())
