import dataclasses

import pytest
import torch
from torch import nn

from doublure.nets.features import FeatureRecorder
from doublure.objectives.fit_nets import hint_loss
from doublure.objectives.pairing import Layers
from doublure.objectives.stage_outputs import StageOutputs, relative_error
from doublure.recipe_file import replace_keys
from tests.engine.test_recipe import PLAIN
from tests.objectives.features import asked, built, learns, numbers, opened

DEFAULTS = {"weight": 1.0, "find": "stages"}


def test_three_values_by_hand():
    teacher = torch.tensor([[[[0.0, 1.0, 5.0]]]], dtype=torch.float64)  # mean 2, variance 14 / 3
    student = torch.tensor([[[[0.0, 3.0, 4.0]]]], dtype=torch.float64)  # squares 0, 4, 1
    assert relative_error(student, teacher).item() == pytest.approx((5 / 3) / (14 / 3), abs=1e-12)


def test_the_teachers_mean_costs_one_and_the_teacher_nothing():
    teacher = numbers(3, 2, 4, 4)
    mean = teacher.mean().expand_as(teacher)
    assert relative_error(mean, teacher).item() == pytest.approx(1, abs=1e-12)
    assert relative_error(teacher, teacher).item() == 0


@pytest.mark.parametrize("scale", [1e-2, 1e3])
def test_the_scale_and_the_level_of_the_maps_do_not_matter(scale):
    student, teacher = numbers(3, 2, 4, 4), numbers(3, 2, 4, 4, seed=1)
    expected = relative_error(student, teacher)
    torch.testing.assert_close(relative_error(scale * student + 7, scale * teacher + 7), expected)


def test_it_is_the_hint_over_the_variance_of_the_whole_batch():
    student, teacher = numbers(3, 2, 4, 4), numbers(3, 2, 4, 4, seed=1)
    torch.testing.assert_close(
        relative_error(student, teacher),
        hint_loss(student, teacher).mean() / teacher.var(correction=0),
    )


def test_no_gradient_goes_through_the_variance():
    student, teacher = numbers(2, 3), numbers(2, 3, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(relative_error(student, teacher), teacher)
    expected = 2 * (teacher - student) / 6 / teacher.var(correction=0)
    torch.testing.assert_close(gradient, expected)


def test_a_dead_stage_is_finite():
    zeros = torch.zeros(2, 3, 4, 4)
    assert relative_error(zeros, zeros).item() == 0
    assert relative_error(zeros + 1, zeros).isfinite()


def test_networks_of_one_width_take_no_adapters_and_others_a_convolution_where_it_is_needed():
    same = opened(StageOutputs(), built("resnet8"), built("resnet14"))
    assert [*same.parameters()] == []
    assert same.features.student == ("layer1", "layer2", "layer3")
    narrow = opened(StageOutputs(), built("resnet8-0.5"), built("resnet8"))
    kinds = [type(adapter) for adapter in narrow.adapters]
    assert kinds == [nn.Sequential] * 3
    weights = [adapter[0].weight.shape for adapter in narrow.adapters]
    assert weights == [(16, 8, 1, 1), (32, 16, 1, 1), (64, 32, 1, 1)]


def test_a_twin_is_at_zero_and_its_sum_is_of_all_stages():
    teacher = built("resnet8").eval()
    terms = asked(opened(StageOutputs(), teacher, teacher), teacher, teacher)
    assert {name: value.item() for name, value in terms.items()} == {"stage_outputs": 0}
    student = built("resnet8", 1).eval()
    whole, parts = (
        [
            asked(opened(StageOutputs(layers=layers), student, teacher), student, teacher)
            for layers in some
        ]
        for some in (
            [Layers()],
            [Layers(student=(name,), teacher=(name,)) for name in ("layer1", "layer2", "layer3")],
        )
    )
    torch.testing.assert_close(
        whole[0]["stage_outputs"], torch.stack([p["stage_outputs"] for p in parts]).sum()
    )


def test_the_maps_are_behind_the_activation():
    teacher = built("resnet8").eval()
    loss = opened(StageOutputs(), teacher, teacher)
    images = torch.rand(4, 3, 16, 16)
    with FeatureRecorder(teacher, loss.features.teacher) as recorder, torch.no_grad():
        tapped = recorder.record(images).features
    assert all(value.min() >= 0 for value in tapped.values())


@pytest.mark.parametrize(("student", "teacher"), [("resnet8", "resnet14"), ("vgg8", "resnet8")])
def test_a_student_comes_closer(student, teacher):
    first, last = learns(StageOutputs(), student, teacher)
    assert last < 0.95 * first


def test_the_weight_is_that_of_the_sum():
    student, teacher = built("resnet8", 1).eval(), built("resnet8").eval()
    one, three = (
        asked(opened(StageOutputs(weight=w), student, teacher), student, teacher)["stage_outputs"]
        for w in (1.0, 3.0)
    )
    torch.testing.assert_close(three, 3 * one)


def test_it_is_set_by_its_kind():
    stage = dataclasses.replace(PLAIN.stages[0], objective=StageOutputs())
    recipe = dataclasses.replace(PLAIN, stages=(stage,))
    changed = replace_keys(recipe, {"stage-outputs.weight": "0.5"})
    assert changed.stages[0].objective.weight == 0.5


def test_a_weight_of_zero_is_refused():
    with pytest.raises(ValueError, match="weight must be positive, got 0"):
        StageOutputs(weight=0)
