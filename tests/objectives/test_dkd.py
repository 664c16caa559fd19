import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.dkd import DKD, decoupled_losses
from doublure.objectives.soft_targets import soft_target_loss
from doublure.objectives.weighted import open_loss
from tests.objectives.features import numbers

DEFAULTS = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}
EXAMPLES = (DKD(warmup_steps=4),)

STUDENT = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, 0.5], [2.0, 0.0, -1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])
IMAGES = torch.zeros(2, 1, 1, 1)


def test_two_samples_by_hand():
    target, others = decoupled_losses(STUDENT, TEACHER, LABELS, 4.0)
    assert target.mean().item() == pytest.approx(1.7950903, abs=5e-8)
    assert others.mean().item() == pytest.approx(0.1551808, abs=5e-8)


@given(seed=st.integers(0, 99), temperature=st.floats(0.5, 20))
def test_soft_targets_are_its_two_parts(seed, temperature):
    student, teacher = numbers(5, 7, seed=seed), numbers(5, 7, seed=seed + 100)
    labels = torch.arange(5)
    target, others = decoupled_losses(student, teacher, labels, temperature)
    p = (teacher / temperature).softmax(-1)[torch.arange(5), labels]
    whole = soft_target_loss(student, teacher, temperature)
    torch.testing.assert_close(target + (1 - p) * others, whole)


def test_what_a_sure_teacher_knows_of_the_others_still_counts():
    teacher = torch.tensor([[30.0, 2.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[30.0, 0.0, 2.0]], dtype=torch.float64)
    _, others = decoupled_losses(student, teacher, torch.tensor([0]), 1.0)
    assert soft_target_loss(student, teacher, 1.0).item() < 1e-10
    assert others.item() > 1.0


def test_labels_are_the_batchs_or_the_teachers_top_1():
    student, teacher = Outputs(output=STUDENT), Outputs(output=TEACHER)
    batch = image_batch(IMAGES, labels=TEACHER.argmax(-1))
    rng = torch.Generator()
    of_batch = open_loss(DKD(), torch.nn.Identity(), None, batch, rng)
    of_teacher = open_loss(DKD(of="teacher"), torch.nn.Identity(), None, batch, rng)
    assert of_batch(student, teacher, batch) == of_teacher(student, teacher, image_batch(IMAGES))


def test_a_set_without_labels_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"has none.*of='teacher'"):
        open_loss(DKD(), torch.nn.Identity(), None, image_batch(IMAGES), torch.Generator())


def test_gradients_are_those_of_the_equation():
    student = numbers(3, 4).requires_grad_()
    labels = torch.tensor([0, 1, 3])
    assert torch.autograd.gradcheck(
        lambda x: sum(decoupled_losses(x, numbers(3, 4, seed=1), labels, 4.0)), student
    )


def test_no_size_depends_on_the_labels_so_that_a_gpu_need_not_be_waited_for():
    logits = torch.empty(4, 5, device="meta")
    labels = torch.empty(4, dtype=torch.int64, device="meta")
    target, others = decoupled_losses(logits, logits, labels, 4.0)
    assert target.shape == others.shape == (4,)
