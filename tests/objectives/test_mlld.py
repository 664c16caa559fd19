import pytest
import torch

from tests.objectives.features import numbers
from understudy.objectives.mlld import Mlld, batch_loss, class_loss
from understudy.objectives.soft_targets import soft_target_loss
from understudy.protocols import Trace, image_batch


def test_it_agrees_with_loops_over_samples_and_classes():
    q, p = numbers(3, 4).softmax(-1), numbers(3, 4, seed=1).softmax(-1)
    samples = sum(((q[i] @ q[j]) - (p[i] @ p[j])) ** 2 for i in range(3) for j in range(3)) / 3
    classes = (
        sum(((q[:, i] @ q[:, j]) - (p[:, i] @ p[:, j])) ** 2 for i in range(4) for j in range(4))
        / 4
    )
    torch.testing.assert_close(batch_loss(q, p), samples)
    torch.testing.assert_close(class_loss(q, p), classes)


def test_terms_are_means_over_the_temperatures():
    student, teacher = numbers(3, 4).float(), numbers(3, 4, seed=1).float()
    batch = image_batch(torch.zeros(3, 1, 1, 1))
    terms = Mlld()(Trace(output=student), Trace(output=teacher), batch)
    each = [soft_target_loss(student, teacher, float(t)).mean().item() for t in range(2, 7)]
    assert terms["mlld_instance"].item() == pytest.approx(sum(each) / 5)


def test_without_temperatures_it_is_refused():
    with pytest.raises(ValueError, match="temperatures must not be empty"):
        Mlld(temperatures=())
