import math

import pytest
import torch

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.hard_labels import HardLabels, hard_label_loss

DEFAULTS = {"label_smoothing": 0.0, "of": "batch"}
EXAMPLES = (HardLabels(label_smoothing=0.1),)

LOGITS = torch.tensor([[0.0, math.log(3.0)], [math.log(3.0), 0.0]])
IMAGES = torch.zeros(2, 1, 1, 1)


def test_two_classes_by_hand():
    loss = hard_label_loss(LOGITS, torch.tensor([1, 1]), 0.0)
    torch.testing.assert_close(loss, torch.tensor([-math.log(0.75), -math.log(0.25)]))


def test_a_one_hot_distribution_is_the_label_itself():
    one_hot = torch.eye(2)
    torch.testing.assert_close(
        hard_label_loss(LOGITS, one_hot, 0.0), hard_label_loss(LOGITS, torch.tensor([0, 1]), 0.0)
    )


def test_labels_of_the_teacher_are_its_top_1():
    student, teacher = Outputs(output=LOGITS), Outputs(output=-LOGITS)
    terms = HardLabels(of="teacher")(student, teacher, image_batch(IMAGES))
    assert terms["hard_labels"].item() == pytest.approx(-math.log(0.25))


def test_a_batch_without_labels_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"has none.*of='teacher'"):
        HardLabels()(Outputs(output=LOGITS), None, image_batch(IMAGES))
