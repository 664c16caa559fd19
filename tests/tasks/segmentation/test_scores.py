import pytest
import torch

from doublure.core.protocols import image_batch
from doublure.tasks.segmentation.scores import (
    SegmentationTally,
    agreement,
    confusion_matrix,
    intersection_over_union,
    score,
)
from tests import tiny


def logits_of(classes: torch.Tensor, count: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes, count).movedim(-1, 1).float()


def test_a_confusion_matrix_by_hand():
    found = confusion_matrix(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]), 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    iou = intersection_over_union(found)
    assert iou.tolist() == pytest.approx([1 / 2, 1 / 3, 0.0])
    assert iou.dtype == torch.float64


def test_mean_iou_is_over_the_classes_that_are_there():
    labels = torch.tensor([[[0, 0], [1, 1]]])
    predicted = torch.tensor([[[0, 1], [1, 2]]])
    found = score([(logits_of(predicted), image_batch(torch.zeros(1, 1, 2, 2), labels=labels))])
    # IoU 1/2 of class 0 and 1/3 of class 1; no pixel is of class 2.
    assert found["mean_iou"].value == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found["pixel_accuracy"].value == pytest.approx(1 / 2)
    assert found["pixel_accuracy"].count == 4


def test_the_truth_scores_perfectly_and_pixels_that_do_not_count_change_nothing():
    labels = torch.randint(3, (2, 4, 5), generator=tiny.rng())
    mask = torch.rand(2, 4, 5, generator=tiny.rng(1)) > 0.3
    wrong = torch.where(mask, labels, (labels + 1) % 3)
    batch = image_batch(torch.zeros(2, 1, 4, 5), labels=labels, mask=mask)
    found = score([(logits_of(wrong), batch)])
    assert found["mean_iou"].value == found["pixel_accuracy"].value == 1.0
    assert found["mean_iou"].count == int(mask.sum())


def test_batches_go_into_one_matrix():
    labels = torch.randint(3, (4, 4, 5), generator=tiny.rng())
    output = torch.randn(4, 3, 4, 5, generator=tiny.rng(1))
    parts = [
        (output[i : i + 2], image_batch(torch.zeros(2, 1, 4, 5), labels=labels[i : i + 2]))
        for i in (0, 2)
    ]
    assert score(parts) == score([(output, image_batch(torch.zeros(4, 1, 4, 5), labels=labels))])


def test_agreement_is_the_share_of_equal_pixels():
    one = torch.tensor([[[0, 1], [2, 2]]])
    other = torch.tensor([[[0, 1], [1, 2]]])
    assert agreement([(logits_of(one), logits_of(other))]).value == 3 / 4
    assert agreement([(logits_of(one), logits_of(one))]).value == 1


def test_labels_of_another_size_and_labels_that_never_count_are_refused():
    tally = SegmentationTally(3)
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"maps of \(2, 2\) pixels cannot be scored on labels of"):
        tally.add(torch.zeros(1, 3, 2, 2), labels, None)
    tally.add(torch.zeros(1, 3, 4, 4), labels, torch.zeros(1, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="none of these count"):
        tally.scores()
