"""Torch's side of a tape: each operation by its definition, registers reused without harm."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.shaders.expressions import OPERATIONS, X, Y, apply, number
from doublure.shaders.torch_code import FUNCTIONS, compile_torch
from tests.shaders.formulas import painted

ARITHMETIC = [name for name, operation in OPERATIONS.items() if operation.fold]


@pytest.mark.parametrize("name", ARITHMETIC)
def test_an_operation_is_what_its_literals_fold_to(name):
    operation = OPERATIONS[name]
    # Away from zero, where sqrt, log and division are at home.
    args = [X * 0.5 + 2.25, Y * 0.5 + 1.25][: len(operation.takes)]
    grid = [painted(arg).double() for arg in args]
    columns = zip(*(values.flatten().tolist() for values in grid), strict=True)
    wanted = torch.tensor([operation.fold(*values) for values in columns], dtype=torch.float64)
    result = painted(apply(name, *args)).double().flatten()
    torch.testing.assert_close(result, wanted, rtol=1e-6, atol=1e-6)


@given(value=st.integers(0, 2**32 - 1), bits=st.sampled_from((15, 16)))
def test_integers_are_unsigned_and_wrap_around(value, bits):
    word = torch.tensor([value - 2**32 if value >= 2**31 else value], dtype=torch.int32)
    out = torch.empty_like(word)
    shifted = FUNCTIONS[f"xor_shift_{bits}"](word, out=out).item() % 2**32
    assert shifted == value ^ (value >> bits)
    product = FUNCTIONS["int_mul"](word, word, out=out).item() % 2**32
    assert product == value * value % 2**32


@given(value=st.integers(0, 2**32 - 1))
def test_units_read_a_words_halves_as_signed_fractions(value):
    signed = value - 2**32 if value >= 2**31 else value
    word = torch.tensor([signed], dtype=torch.int32)
    out = torch.empty(1)
    assert FUNCTIONS["unit"](word, out=out).item() == pytest.approx(signed / 2**32, abs=1e-7)
    assert FUNCTIONS["unit_high"](word, out=out).item() == (signed >> 16) / 2**16
    low = value % 2**16
    assert FUNCTIONS["unit_low"](word, out=out).item() == (low - 2**16 * (low >= 2**15)) / 2**16


def test_a_register_is_free_again_after_its_last_use():
    value = X
    for _ in range(50):
        value = apply("sin", value) * Y
    assert compile_torch(number((value,))).num_registers == 1


def test_a_value_that_is_needed_later_is_not_overwritten():
    early = X * 3.0
    late = apply("abs", apply("sin", early) + apply("cos", early))
    grid = painted(X).double()
    wanted = torch.sin(3 * grid).add(torch.cos(3 * grid)).abs() * 3 * grid
    torch.testing.assert_close(painted(late * early).double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_program_may_paint_one_constant():
    assert painted(X * 0.0 + 0.25).unique().tolist() == [0.25]
    assert math.isclose(painted(apply("sin", 0.5)).unique().item(), math.sin(0.5), rel_tol=1e-6)
