import pytest
import torch

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.mlld import MLLD, batch_loss, class_loss
from doublure.objectives.soft_targets import soft_target_loss
from tests.objectives.features import numbers

DEFAULTS = {
    "instance_weight": 1.0,
    "batch_weight": 1.0,
    "class_weight": 1.0,
    "images_per_class": 0.64,
    "temperatures": (2.0, 3.0, 4.0, 5.0, 6.0),
}


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
    terms = MLLD()(Outputs(output=student), Outputs(output=teacher), batch)
    each = [soft_target_loss(student, teacher, float(t)).mean().item() for t in range(2, 7)]
    assert terms["mlld_instance"].item() == pytest.approx(sum(each) / 5)


def test_a_teacher_that_is_sure_weighs_the_same_in_batches_of_any_size_and_of_any_classes():
    """P^T P of one-hot answers is n times the unit matrix, and the student says nothing: 1 / C."""

    def terms(samples: int, classes: int) -> list[float]:
        sure = 1e4 * torch.eye(classes).repeat(samples // classes, 1)
        nothing = Outputs(output=torch.zeros_like(sure))
        batch = image_batch(torch.zeros(samples, 1, 1, 1))
        made = MLLD(images_per_class=1.0)(nothing, Outputs(output=sure), batch)
        return [
            made[name].item() * classes / (classes - 1) for name in ("mlld_batch", "mlld_class")
        ]

    for samples, classes in ((10, 10), (40, 10), (40, 20)):
        assert terms(samples, classes) == pytest.approx([1.0, 1.0], rel=1e-5)


def test_at_the_paper_s_batch_the_terms_are_the_paper_s():
    student, teacher = numbers(64, 100).float(), numbers(64, 100, seed=1).float()
    batch = image_batch(torch.zeros(64, 1, 1, 1))
    made = MLLD(temperatures=(1.0,))(Outputs(output=student), Outputs(output=teacher), batch)
    q, p = student.softmax(-1), teacher.softmax(-1)
    torch.testing.assert_close(made["mlld_batch"], batch_loss(q, p))
    torch.testing.assert_close(made["mlld_class"], class_loss(q, p))


def test_without_temperatures_it_is_refused():
    with pytest.raises(ValueError, match="temperatures must not be empty"):
        MLLD(temperatures=())
