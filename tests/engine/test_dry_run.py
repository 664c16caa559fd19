import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from doublure.engine.dry_run import dry_run, weights_digest
from doublure.nets.network import Network
from doublure.tasks.classification.task import ClassificationTask
from tests import tiny

TASK = ClassificationTask()


def network(**contract) -> Network:
    return Network(tiny.network(0), replace(tiny.CONTRACT, **contract))


def test_a_network_that_answers_as_it_says_passes_and_is_left_as_it_was():
    able = network().train()
    before = copy.deepcopy(able.state_dict())
    assert dry_run("teacher", able, TASK) == []
    assert able.training
    torch.testing.assert_close(able.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(value):
    broken = network()
    broken.body[1].running_var[2] = value
    with pytest.raises(
        ValueError, match=r"the teacher's '1.running_var' holds values that are NaN"
    ):
        dry_run("teacher", broken, TASK)


def test_a_network_that_does_not_take_its_images_is_named_with_their_shape():
    with pytest.raises(
        ValueError, match=r"the student does not take an image of 2 x 8 x 8 \(.*chan"
    ):
        dry_run("student", network(channels=2, mean=(0.5,) * 2, std=(0.5,) * 2), TASK)


def test_a_network_that_answers_other_classes_than_it_says_is_named():
    with pytest.raises(ValueError, match=r"returns \(3,\) numbers per image, .* has 4 classes"):
        dry_run("teacher", network(classes=4), TASK)


@pytest.mark.parametrize(("last", "doubted"), [(nn.Softmax(-1), True), (nn.LogSoftmax(-1), False)])
def test_a_network_that_answers_probabilities_is_doubted(last, doubted):
    ends = Network(nn.Sequential(tiny.network(0), last), tiny.CONTRACT)
    notes = dry_run("teacher", ends, TASK)
    assert ["returns probabilities, not logits" in note for note in notes] == [True] * doubted


def test_a_network_whose_answers_hang_on_the_batch_is_doubted_by_the_layer():
    body = tiny.network(0)
    body[1] = nn.BatchNorm2d(body[1].num_features, track_running_stats=False)
    (note,) = dry_run("teacher", Network(body, tiny.CONTRACT), TASK)
    assert note.startswith("teacher: depends on the other images of a batch")
    assert "'1' has no running statistics" in note


def test_a_network_of_one_number_is_refused_with_the_way_out():
    one = Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), replace(tiny.CONTRACT, classes=1))
    with pytest.raises(ValueError, match=r"the teacher has a single output.* give it two logits"):
        dry_run("teacher", one, TASK)


def test_an_output_that_is_no_tensor_is_named_with_the_way_out():
    class Boxes(nn.Module):
        def forward(self, images):
            return {"boxes": images}

    with pytest.raises(ValueError, match=r"returns a dict \(boxes\), not"):
        dry_run("teacher", Network(Boxes(), tiny.CONTRACT), TASK)


def test_a_pair_must_agree_in_classes_and_channels():
    TASK.check_pair(tiny.CONTRACT, replace(tiny.CONTRACT, mean=(0.1,)), own_label_space=False)
    with pytest.raises(ValueError, match="the student has 4 classes, its teacher 3"):
        TASK.check_pair(tiny.CONTRACT, replace(tiny.CONTRACT, classes=4), own_label_space=False)


def test_a_digest_tells_weights_apart_and_nothing_else():
    one = network()
    assert weights_digest(one) == weights_digest(copy.deepcopy(one).train())
    other = network()
    with torch.no_grad():
        other.body[0].weight[0, 0, 0, 0] += 1e-6
    assert weights_digest(one) != weights_digest(other)
