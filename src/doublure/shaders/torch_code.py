"""A tape as calls of torch functions: uniform values once per image, varying ones per pixel.

Varying values live in registers that every operation writes into (`out=`), so that a block of
pixels stays in the processor's cache and nothing is allocated between operations.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from doublure.shaders.expressions import Tape


def _clamp01(value: Tensor, *, out: Tensor) -> Tensor:
    return torch.clamp(value, 0.0, 1.0, out=out)


def _to_int(value: Tensor, *, out: Tensor) -> Tensor:
    return out.copy_(value)


def _xor_shift(bits: int) -> Callable[..., Tensor]:
    # Torch shifts signed integers: the mask drops the copies of the sign.
    mask = (1 << (32 - bits)) - 1

    def operation(value: Tensor, *, out: Tensor) -> Tensor:
        torch.bitwise_right_shift(value, bits, out=out)
        return out.bitwise_and_(mask).bitwise_xor_(value)

    return operation


def _unit(value: Tensor, *, out: Tensor) -> Tensor:
    return out.copy_(value).mul_(2.0**-32)


def _unit_high(value: Tensor, *, out: Tensor) -> Tensor:
    return out.copy_(value.bitwise_right_shift(16)).mul_(2.0**-16)


def _unit_low(value: Tensor, *, out: Tensor) -> Tensor:
    return out.copy_(value.bitwise_left_shift(16).bitwise_right_shift_(16)).mul_(2.0**-16)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "min": torch.minimum,
    "max": torch.maximum,
    "abs": torch.abs,
    "floor": torch.floor,
    "clamp01": _clamp01,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": torch.exp,
    "log": torch.log,
    "to_int": _to_int,
    "int_add": torch.add,
    "int_mul": torch.mul,
    "xor_shift_15": _xor_shift(15),
    "xor_shift_16": _xor_shift(16),
    "unit": _unit,
    "unit_high": _unit_high,
    "unit_low": _unit_low,
}
# These read an argument after they began to write, or write another type than they read.
_NOT_IN_PLACE = {"to_int", "xor_shift_15", "xor_shift_16", "unit", "unit_high", "unit_low"}


# Functions of uniform values, in float64, so that results do not depend on the machine.
_UNIFORM_FUNCTIONS: dict[str, Callable[..., Tensor]] = FUNCTIONS | {
    "clamp01": lambda value: value.clamp(0.0, 1.0),
    "to_int": lambda value: value,
}


@dataclass(frozen=True, kw_only=True)
class TorchCode:
    """A tape ready to run in torch.

    Args:
        slots: slots of the parameters in use.
        uniform_literals: numbers that uniform code reads.
        uniform: function and operands of each uniform value; an operand is a place in the list
            parameters, literals, results so far.
        constants: places in that list of what varying code reads as float.
        int_constants: places in that list of what varying code reads as integer.
        literals: numbers that varying code reads; `int_literals` likewise.
        varying: function, operands and result of each varying value; both are places in the list
            x, y, literals, int_literals, constants, int_constants, registers as float,
            registers as integer.
        num_registers: number of registers.
        outputs: places in that list of the results.
    """

    slots: tuple[int, ...]
    uniform_literals: tuple[float, ...]
    uniform: tuple[tuple[Callable[..., Tensor], tuple[int, ...]], ...]
    constants: tuple[int, ...]
    int_constants: tuple[int, ...]
    literals: tuple[float, ...]
    int_literals: tuple[int, ...]
    varying: tuple[tuple[Callable[..., Tensor], tuple[int, ...], int], ...]
    num_registers: int
    outputs: tuple[int, ...]


def compile_torch(tape: Tape) -> TorchCode:
    """Return `tape` as calls of torch functions on numbered operands."""
    code = tape.instructions
    used = {arg for step in code if step.varying for arg in step.args} | set(tape.outputs)
    uniform = [n for n, step in enumerate(code) if not step.varying and step.args]
    parameters = [n for n, step in enumerate(code) if step.op == "parameter"]
    read = {arg for n in uniform for arg in code[n].args}
    uniform_literals = [n for n in sorted(read) if code[n].op == "literal"]
    place = {n: i for i, n in enumerate((*parameters, *uniform_literals, *uniform))}
    constants = [n for n in tape.constants if code[n].kind == "float"]
    int_constants = [n for n in tape.constants if code[n].kind == "int"]
    literals = [n for n in sorted(used) if code[n].op == "literal"]
    int_literals = [n for n in sorted(used) if code[n].op == "int_literal"]
    fixed = (*literals, *int_literals, *constants, *int_constants)
    operand = {n: i + 2 for i, n in enumerate(fixed)}
    operand |= {
        n: ("x", "y").index(step.op) for n, step in enumerate(code) if step.op in ("x", "y")
    }
    registers, num_registers = _assign_registers(tape)
    for n, register in registers.items():
        operand[n] = 2 + len(fixed) + register + num_registers * (code[n].kind == "int")
    return TorchCode(
        slots=tuple(int(code[n].value) for n in parameters),
        uniform_literals=tuple(code[n].value for n in uniform_literals),
        uniform=tuple(
            (_UNIFORM_FUNCTIONS[code[n].op], tuple(place[arg] for arg in code[n].args))
            for n in uniform
        ),
        constants=tuple(place[n] for n in constants),
        int_constants=tuple(place[n] for n in int_constants),
        literals=tuple(code[n].value for n in literals),
        int_literals=tuple(int(code[n].value) for n in int_literals),
        varying=tuple(
            (FUNCTIONS[code[n].op], tuple(operand[arg] for arg in code[n].args), operand[n])
            for n in tape.varying()
        ),
        num_registers=num_registers,
        outputs=tuple(operand[n] for n in tape.outputs),
    )


def _assign_registers(tape: Tape) -> tuple[dict[int, int], int]:
    """Return the register of each varying value, and the number of registers."""
    code, order = tape.instructions, tape.varying()
    last_use = {arg: n for n in order for arg in code[n].args}
    last_use |= dict.fromkeys(tape.outputs, len(code))
    registers: dict[int, int] = {}
    free: list[int] = []
    count = 0
    for n in order:
        # The most recently freed register is the one whose memory is still in the cache.
        dying = [
            registers[arg]
            for arg in dict.fromkeys(code[n].args)
            if arg in registers and last_use[arg] == n
        ]
        if code[n].op not in _NOT_IN_PLACE:
            free += dying
        if free:
            registers[n] = free.pop()
        else:
            registers[n] = count
            count += 1
        if code[n].op in _NOT_IN_PLACE:
            free += dying
    return registers, count


def uniform_values(code: TorchCode, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Return the constants [constant, image] in float32, and the integer ones in int32.

    Args:
        parameters: values of all slots and images [slot, image], float64, on the CPU.
    """
    columns = parameters.unbind(0)
    values = [columns[slot] for slot in code.slots]
    values += torch.tensor(code.uniform_literals, dtype=torch.float64).unbind(0)
    for function, operands in code.uniform:
        values.append(function(*[values[operand] for operand in operands]))
    empty = parameters.new_empty((0, parameters.shape[1]))
    floats = [values[place].expand(parameters.shape[1]) for place in code.constants]
    ints = [values[place].expand(parameters.shape[1]) for place in code.int_constants]
    return (
        (torch.stack(floats) if floats else empty).to(torch.float32),
        (torch.stack(ints) if ints else empty).to(torch.int32),
    )
