import math

import pytest
import torch

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.wsld import WSLD, soft_label_weights, weighted_soft_label_loss

DEFAULTS = {"weight": 2.5, "temperature": 2.0}

STUDENT = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, 0.5], [2.0, 0.0, -1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])


def test_two_samples_by_hand():
    weights = soft_label_weights(STUDENT, TEACHER, LABELS)
    assert weights.tolist() == pytest.approx([0.9999952, 0.0733016], abs=5e-7)
    loss = weighted_soft_label_loss(STUDENT, TEACHER, LABELS, 2.0).mean()
    assert loss.item() == pytest.approx(2.9891600, abs=1e-6)


def test_a_student_as_good_as_its_teacher_gets_a_weight_of_1_less_1_over_e():
    weights = soft_label_weights(TEACHER, TEACHER, LABELS)
    assert weights.tolist() == pytest.approx([1 - math.exp(-1)] * 2, abs=1e-6)


def test_the_weights_have_no_gradient():
    student = STUDENT.clone().requires_grad_()
    assert not soft_label_weights(student, TEACHER, LABELS).requires_grad
    (gradient,) = torch.autograd.grad(
        weighted_soft_label_loss(student, TEACHER, LABELS, 2.0).sum(), student
    )
    weights = soft_label_weights(STUDENT, TEACHER, LABELS)[:, None]
    by_hand = 2 * weights * ((STUDENT / 2).softmax(-1) - (TEACHER / 2).softmax(-1))
    torch.testing.assert_close(gradient, by_hand)


def test_a_certain_teacher_leaves_it_finite():
    sure = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    assert soft_label_weights(torch.zeros(2, 2), sure, torch.tensor([0, 1])).tolist() == [1.0, 1.0]


def test_the_coefficient_is_the_papers():
    batch = image_batch(torch.zeros(2, 1, 1, 1), labels=LABELS)
    (term,) = WSLD()(Outputs(output=STUDENT), Outputs(output=TEACHER), batch).values()
    assert term.item() == pytest.approx(2.5 * 2.98916, rel=1e-5)
