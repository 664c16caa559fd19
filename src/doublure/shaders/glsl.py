"""Shader programs as GLSL 3.30 fragment shaders: the same tape gives the same picture.

One draw call renders many images of one program: they are the tiles of an atlas, and each tile
reads its own column of a texture of constants.
"""

from doublure.shaders.expressions import Instruction, Tape

TEMPLATES = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "min": "min({0}, {1})",
    "max": "max({0}, {1})",
    "abs": "abs({0})",
    "floor": "floor({0})",
    "clamp01": "clamp({0}, 0.0, 1.0)",
    "sqrt": "sqrt({0})",
    "sin": "sin({0})",
    "cos": "cos({0})",
    "exp": "exp({0})",
    "log": "log({0})",
    "to_int": "uint(int({0}))",
    "int_add": "{0} + {1}",
    "int_mul": "{0} * {1}",
    "xor_shift_15": "{0} ^ ({0} >> 15u)",
    "xor_shift_16": "{0} ^ ({0} >> 16u)",
    "unit": "float(int({0})) * 2.3283064365386963e-10",
    "unit_high": "float(int({0}) >> 16) * 1.52587890625e-05",
    "unit_low": "float(int({0} << 16u) >> 16) * 1.52587890625e-05",
}

VERTEX_SHADER = """#version 330
void main() {
    // One triangle that covers the whole viewport.
    gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0);
}
"""

# Row 0 of a tile is the top row of its image, because OpenGL reads back the bottom row first.
_FRAGMENT_SHADER = """#version 330
uniform sampler2D constants;
uniform ivec2 size;
uniform int columns;
uniform int first;
uniform int count;
uniform int supersample;
out vec4 colour;
{declarations}
vec3 sample_at(float x, float y) {{
{body}
    return vec3({outputs});
}}

void main() {{
    ivec2 place = ivec2(gl_FragCoord.xy);
    ivec2 tile = place / size;
    int image = tile.y * columns + tile.x - first;
    if (image < 0 || image >= count) discard;
{reads}
    ivec2 samples = size * supersample;
    float unit = 2.0 / float(min(samples.x, samples.y));
    ivec2 corner = (place - tile * size) * supersample;
    vec3 sum = vec3(0.0);
    for (int row = 0; row < supersample; row++) {{
        float y = ((0.5 * float(samples.y) - 0.5) - float(corner.y + row)) * unit;
        for (int column = 0; column < supersample; column++) {{
            float x = (float(corner.x + column) + (0.5 - 0.5 * float(samples.x))) * unit;
            sum += sample_at(x, y);
        }}
    }}
    colour = vec4(sum / float(supersample * supersample), 1.0);
}}
"""


def emit_glsl(tape: Tape) -> str:
    """Return the fragment shader of `tape`; constants are read in the tape's order."""
    kinds = {number: tape.instructions[number].kind for number in tape.constants}
    # Floats first, then integers: the order in which the blocks of constants are stacked.
    order = sorted(tape.constants, key=lambda number: (kinds[number] == "int", number))
    names = _names(tape, order)
    fetched = {
        number: f"texelFetch(constants, ivec2(image, {row}), 0).r"
        for row, number in enumerate(order)
    }
    return _FRAGMENT_SHADER.format(
        declarations="\n".join(f"{_type(kinds[n])} {names[n]};" for n in order),
        body="\n".join(_statement(tape, number, names) for number in tape.varying()),
        outputs=", ".join(names[output] for output in tape.outputs),
        reads="\n".join(
            f"    {names[n]} = {f'uint(int({fetched[n]}))' if kinds[n] == 'int' else fetched[n]};"
            for n in order
        ),
    )


def _names(tape: Tape, constants: list[int]) -> dict[int, str]:
    names = {number: f"c{index}" for index, number in enumerate(constants)}
    for number, instruction in enumerate(tape.instructions):
        if instruction.varying:
            names[number] = instruction.op if not instruction.args else f"v{number}"
        elif instruction.op == "literal":
            names[number] = _float_literal(instruction)
        elif instruction.op == "int_literal":
            names[number] = f"{int(instruction.value)}u"
    return names


def _float_literal(instruction: Instruction) -> str:
    text = repr(float(instruction.value))
    return f"({text})" if text.startswith("-") else text


def _type(kind: str) -> str:
    return "uint" if kind == "int" else "float"


def _statement(tape: Tape, number: int, names: dict[int, str]) -> str:
    instruction = tape.instructions[number]
    right = TEMPLATES[instruction.op].format(*(names[arg] for arg in instruction.args))
    return f"    {_type(instruction.kind)} {names[number]} = {right};"
