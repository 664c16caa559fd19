"""GLSL's side of a tape: what is written, without a driver to read it."""

import re

import pytest

from doublure.shaders.expressions import X, Y, number, parameter
from doublure.shaders.families import FAMILIES, program_tape
from doublure.shaders.glsl import emit_glsl


@pytest.mark.parametrize("family", FAMILIES)
def test_no_program_hashes_with_a_sine(family):
    for seed in range(2):
        text = emit_glsl(program_tape(seed, family))
        assert "fract" not in text
        # Every sine's value goes into arithmetic, none is multiplied up and cut off.
        assert not re.search(r"floor\(sin|4375", text)


def test_expressions_become_statements_and_constants_are_read_from_the_images_column():
    text = emit_glsl(number((X + parameter(1), Y * -2.0, X + Y)))
    assert "    c0 = texelFetch(constants, ivec2(image, 0), 0).r;" in text
    assert re.search(r"float v\d+ = x \+ c0;", text)
    assert re.search(r"float v\d+ = y \* \(-2\.0\);", text)


def test_integers_are_unsigned():
    text = emit_glsl(program_tape(0, "value_fbm"))
    assert re.search(r"uint v\d+ = v\d+ \^ \(v\d+ >> 16u\);", text)
    assert re.search(r"uint v\d+ = v\d+ \* 2654435761u;", text)
    assert re.search(r"c\d+ = uint\(int\(texelFetch", text)
