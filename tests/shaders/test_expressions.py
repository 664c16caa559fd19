"""Tapes: every distinct value once, literals folded, uniform apart from varying."""

import pytest

from doublure.shaders.expressions import OPERATIONS, X, Y, apply, lift, number, parameter
from doublure.shaders.glsl import TEMPLATES
from doublure.shaders.torch_code import FUNCTIONS


def ops(*outputs):
    return [step.op for step in number(outputs).instructions]


def test_both_languages_know_every_operation():
    assert set(FUNCTIONS) == set(OPERATIONS) == set(TEMPLATES)


def test_an_expression_written_twice_is_computed_once():
    assert sorted(ops((X + Y) * (X + Y))) == ["add", "mul", "x", "y"]


def test_literals_are_folded():
    assert ops(X * (lift(2.0) * 3.0 + 1.0)) == ["literal", "x", "mul"]
    assert number((lift(2.0) * 3.0 + 1.0,)).instructions[0].value == 7.0


def test_adding_nothing_and_multiplying_by_one_cost_nothing():
    assert ops((0.0 + X + 0.0) * 1.0 / 1.0 - 0.0) == ["x"]
    assert ops(1.0 * X) == ["x"]


def test_what_no_output_needs_is_left_out():
    # Folding leaves the two literals behind that went into the third.
    assert ops(lift(2.0) + 3.0) == ["literal"]


def test_uniform_values_are_told_from_varying_ones():
    tape = number((X * (parameter(1) + parameter(2)),))
    varying = [tape.instructions[number].op for number in tape.varying()]
    assert varying == ["mul"]
    # Pixels read the sum; the two parameters stay behind.
    assert [tape.instructions[number].op for number in tape.constants] == ["add"]


def test_a_long_chain_does_not_exhaust_the_stack():
    value = X
    for _ in range(5_000):
        value = value + X
    assert len(number((value,)).instructions) == 5_001


def test_kinds_are_checked():
    with pytest.raises(AssertionError, match="int_add takes"):
        number((apply("int_add", X, Y),))
