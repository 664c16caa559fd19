import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.dist import DIST, correlation, dist_losses
from tests.objectives.features import numbers

DEFAULTS = {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}

STUDENT = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, 0.5], [2.0, 0.0, -1.0]], dtype=torch.float64)


def test_two_samples_by_hand():
    inter, intra = dist_losses(STUDENT, TEACHER, 1.0)
    assert inter.item() == pytest.approx(1.5814785, abs=1e-6)
    assert intra.item() == pytest.approx(1.3333333, abs=1e-6)


def test_it_is_numpys_correlation():
    one, other = numbers(4, 6), numbers(4, 6, seed=1)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(one.numpy(), other.numpy(), strict=True)]
    assert correlation(one, other).tolist() == pytest.approx(expected, abs=1e-7)


@given(scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_rows_may_be_scaled_and_shifted(scale, shift):
    rows = numbers(3, 5)
    torch.testing.assert_close(
        correlation(scale * rows + shift, rows),
        torch.ones(3, dtype=torch.float64),
        atol=1e-6,
        rtol=0,
    )


def test_the_temperature_squared_keeps_its_size():
    at_1 = dist_losses(STUDENT / 4, TEACHER / 4, 1.0)
    at_4 = dist_losses(STUDENT, TEACHER, 4.0)
    assert [x.item() for x in at_4] == pytest.approx([16 * x.item() for x in at_1])


def test_constant_answers_have_a_finite_gradient():
    student = torch.zeros(3, 4, requires_grad=True)
    sum(dist_losses(student, torch.ones(3, 4), 1.0)).backward()
    assert student.grad.isfinite().all()


def test_a_batch_of_one_is_refused():
    outputs = Outputs(output=STUDENT[:1])
    with pytest.raises(ValueError, match="needs at least 2 samples"):
        DIST()(outputs, outputs, image_batch(torch.zeros(1, 1, 1, 1)))
