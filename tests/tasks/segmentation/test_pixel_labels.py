import math

import pytest
import torch

from doublure.core.protocols import Outputs, image_batch
from doublure.tasks.segmentation.pixel_labels import PixelLabels, balancing_weights, focal_loss

DEFAULTS = {"class_weights": (), "focus": 0.0}


def loss_of(objective, logits, labels, mask=None):
    mask = labels != 255 if mask is None else mask
    batch = image_batch(torch.zeros(len(labels), 1, *labels.shape[1:]), labels=labels, mask=mask)
    return objective(Outputs(output=logits), None, batch)["pixel_labels"]


def test_two_classes_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0]])  # p = (3/4, 1/4)
    assert focal_loss(logits, torch.tensor([0]), 0.0).item() == pytest.approx(-math.log(0.75))
    focused = focal_loss(logits, torch.tensor([1]), 2.0).item()
    assert focused == pytest.approx(0.75**2 * -math.log(0.25))


def test_weights_count_pixels_of_a_class_more():
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    found = loss_of(PixelLabels(class_weights=(1.0, 3.0)), logits, labels)
    assert found.item() == pytest.approx((-math.log(0.75) - 3 * math.log(0.25)) / 4)


def test_pixels_that_do_not_count_say_nothing_and_where_none_does_the_loss_is_0():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    labels = torch.tensor([[[0, 255], [2, 1]]])
    plain = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(loss_of(PixelLabels(), logits, labels), plain)
    nothing = loss_of(PixelLabels(), logits, torch.full_like(labels, 255))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad.abs().sum() == 0


def test_balancing_weights_are_those_of_the_root_and_1_on_average():
    shares = (0.64, 0.36, 0.0)
    weights = balancing_weights(shares)
    assert weights[1] / weights[0] == pytest.approx(0.8 / 0.6, abs=1e-3)
    assert sum(s * w for s, w in zip(shares, weights, strict=True)) == pytest.approx(1, abs=1e-3)
    assert weights[2] == weights[1]


def test_weights_of_other_classes_and_missing_labels_are_refused():
    logits, labels = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"one value per class \(3\), got 2"):
        loss_of(PixelLabels(class_weights=(1.0, 2.0)), logits, labels)
    with pytest.raises(ValueError, match="pixel labels need label maps"):
        PixelLabels()(Outputs(output=logits), None, image_batch(torch.zeros(1, 1, 2, 2)))
    with pytest.raises(ValueError, match="must not be negative"):
        PixelLabels(focus=-1.0)
