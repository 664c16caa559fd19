import pytest
import torch

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.logit_l1 import LogitL1
from doublure.objectives.per_pixel import PerPixel, rows_of
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import open_loss
from tests import tiny

MAPS = torch.randn(2, 3, 4, 6, generator=tiny.rng())
TAUGHT = torch.randn(2, 3, 4, 6, generator=tiny.rng(1))
IMAGES = torch.zeros(2, 1, 4, 6)


def terms(objective, batch=None, student=MAPS, teacher=TAUGHT):
    batch = batch or image_batch(IMAGES)
    loss = open_loss(objective, tiny.network(0), None, batch, tiny.rng())
    return loss(Outputs(output=student), Outputs(output=teacher), batch)


def test_rows_are_the_logits_of_pixels_row_by_row():
    rows = rows_of(MAPS, 1)
    assert rows.shape == (2, 24, 3)
    assert torch.equal(rows[1, 7], MAPS[1, :, 1, 1])
    assert torch.equal(rows_of(MAPS, 2)[0, 4], MAPS[0, :, 2, 2])


def test_it_is_the_mean_of_the_objective_over_pixels():
    found = terms(PerPixel(objective=SoftTargets(temperature=2.0)))["soft_targets"]
    one = [
        SoftTargets(temperature=2.0)(
            Outputs(output=MAPS[:, :, i, j]),
            Outputs(output=TAUGHT[:, :, i, j]),
            image_batch(IMAGES),
        )["soft_targets"]
        for i in range(4)
        for j in range(6)
    ]
    torch.testing.assert_close(found, torch.stack(one).mean())


def test_of_logit_l1_it_changes_nothing():
    torch.testing.assert_close(terms(PerPixel(objective=LogitL1())), terms(LogitL1()))


def test_pixels_that_do_not_count_are_left_out():
    labels = torch.randint(3, (2, 4, 6), generator=tiny.rng())
    mask = torch.rand(2, 4, 6, generator=tiny.rng(2)) > 0.5
    labels[~mask] = 255
    batch = image_batch(IMAGES, labels=labels, mask=mask)
    found = terms(PerPixel(objective=HardLabels()), batch)["hard_labels"]
    by_hand = -MAPS.log_softmax(1).movedim(1, -1)[mask].gather(1, labels[mask][:, None]).mean()
    torch.testing.assert_close(found, by_hand)


def test_where_no_pixel_counts_the_loss_is_0_and_so_is_its_gradient():
    labels = torch.full((2, 4, 6), 255)
    batch = image_batch(IMAGES, labels=labels, mask=labels != 255)
    student = MAPS.clone().requires_grad_()
    loss = terms(PerPixel(objective=HardLabels()), batch, student=student)["hard_labels"]
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().sum() == 0


def test_one_vector_an_image_is_left_as_it_is():
    vectors = {"student": MAPS[:, :, 0, 0], "teacher": TAUGHT[:, :, 0, 0]}
    inner = SoftTargets(temperature=3.0)
    torch.testing.assert_close(terms(PerPixel(objective=inner), **vectors), terms(inner, **vectors))


def test_a_stride_of_nothing_is_refused():
    with pytest.raises(ValueError, match="stride must be positive, got 0"):
        PerPixel(stride=0)
