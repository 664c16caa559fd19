"""Expressions over a pixel's coordinates: defined once, evaluated in torch and in GLSL.

An expression is a graph of scalar operations over the coordinates x and y, literals, and
parameters that are constant over an image. `number` turns graphs into a `Tape`: straight-line
code without duplicates, split into *uniform* values (which depend on parameters only, and are
computed once per image on the CPU for every back end) and *varying* values (computed at every
pixel).

Floats are 32 bits wide. Integers are 32 bits and wrap around; they exist for hashing lattice
points, because a hash of floats (`fract(sin(x) * 43758.5)`) differs from machine to machine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["float", "int"]
Number = float | int


class Operation(NamedTuple):
    """Kinds of an operation's arguments and result, and its function on literals if foldable."""

    takes: tuple[Kind, ...]
    gives: Kind = "float"
    fold: Callable[..., float] | None = None


OPERATIONS = {
    "add": Operation(("float", "float"), fold=lambda a, b: a + b),
    "sub": Operation(("float", "float"), fold=lambda a, b: a - b),
    "mul": Operation(("float", "float"), fold=lambda a, b: a * b),
    "div": Operation(("float", "float"), fold=lambda a, b: a / b),
    "min": Operation(("float", "float"), fold=min),
    "max": Operation(("float", "float"), fold=max),
    "abs": Operation(("float",), fold=abs),
    "floor": Operation(("float",), fold=math.floor),
    "clamp01": Operation(("float",), fold=lambda a: min(max(a, 0.0), 1.0)),
    "sqrt": Operation(("float",), fold=math.sqrt),
    "sin": Operation(("float",), fold=math.sin),
    "cos": Operation(("float",), fold=math.cos),
    "exp": Operation(("float",), fold=math.exp),
    "log": Operation(("float",), fold=math.log),
    # From a float that holds a whole number below 2^24 in absolute value.
    "to_int": Operation(("float",), gives="int"),
    "int_add": Operation(("int", "int"), gives="int"),
    "int_mul": Operation(("int", "int"), gives="int"),
    "xor_shift_15": Operation(("int",), gives="int"),
    "xor_shift_16": Operation(("int",), gives="int"),
    # All 32 bits, the upper 16 and the lower 16, as a float in [-1/2, 1/2).
    "unit": Operation(("int",)),
    "unit_high": Operation(("int",)),
    "unit_low": Operation(("int",)),
}
LEAVES: dict[str, Kind] = {
    "x": "float",
    "y": "float",
    "literal": "float",
    "int_literal": "int",
    "parameter": "float",
}


@dataclass(frozen=True, eq=False, slots=True)
class Expr:
    """One scalar: an operation on others, or a leaf whose `value` is a literal or a slot."""

    op: str
    args: tuple["Expr", ...] = ()
    value: Number = 0

    def __add__(self, other: "Expr | Number") -> "Expr":
        return Expr("add", (self, lift(other)))

    def __radd__(self, other: Number) -> "Expr":
        return Expr("add", (lift(other), self))

    def __sub__(self, other: "Expr | Number") -> "Expr":
        return Expr("sub", (self, lift(other)))

    def __rsub__(self, other: Number) -> "Expr":
        return Expr("sub", (lift(other), self))

    def __mul__(self, other: "Expr | Number") -> "Expr":
        return Expr("mul", (self, lift(other)))

    def __rmul__(self, other: Number) -> "Expr":
        return Expr("mul", (lift(other), self))

    def __truediv__(self, other: "Expr | Number") -> "Expr":
        return Expr("div", (self, lift(other)))

    def __rtruediv__(self, other: Number) -> "Expr":
        return Expr("div", (lift(other), self))

    def __neg__(self) -> "Expr":
        return Expr("mul", (self, lift(-1.0)))


Scalar = Expr | Number
X = Expr("x")
Y = Expr("y")


def lift(value: Scalar) -> Expr:
    """Return `value` as an expression."""
    return value if isinstance(value, Expr) else Expr("literal", value=float(value))


def parameter(slot: int) -> Expr:
    """Return the parameter of an image in `slot`."""
    return Expr("parameter", value=slot)


def apply(op: str, *args: Scalar) -> Expr:
    """Return the operation named `op` on `args`."""
    return Expr(op, tuple(lift(arg) for arg in args))


class Instruction(NamedTuple):
    """One operation on numbered values; leaves carry a `value` and no `args`."""

    op: str
    args: tuple[int, ...]
    value: Number
    kind: Kind
    varying: bool


@dataclass(frozen=True, kw_only=True)
class Tape:
    """Straight-line code: instruction i computes value i from earlier ones.

    Args:
        outputs: indices of the results.
        constants: the uniform values that varying instructions read, in the order in which a
            renderer is given them. Literals are not among them.
    """

    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]
    constants: tuple[int, ...]

    def varying(self) -> list[int]:
        """Return the values that are computed at every pixel, in order."""
        return [
            number
            for number, instruction in enumerate(self.instructions)
            if instruction.varying and instruction.args
        ]


def number(outputs: tuple[Expr, ...]) -> Tape:
    """Return the tape that computes `outputs`: every distinct value once, literals folded."""
    numbering = _Numbering()
    results = tuple(numbering.of(output) for output in outputs)
    return _without_the_dead(numbering.instructions, results)


class _Numbering:
    """Value numbering: two expressions get one number if they are the same operation."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self._numbers: dict[tuple[str, tuple[int, ...], Number], int] = {}
        self._seen: dict[int, int] = {}

    def of(self, root: Expr) -> int:
        """Return the number of `root`, numbering what it depends on first (without recursion)."""
        stack = [root]
        while stack:
            expr = stack[-1]
            waiting = [arg for arg in expr.args if id(arg) not in self._seen]
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            if id(expr) not in self._seen:
                args = tuple(self._seen[id(arg)] for arg in expr.args)
                self._seen[id(expr)] = self._number(expr.op, args, expr.value)
        return self._seen[id(root)]

    def _number(self, op: str, args: tuple[int, ...], value: Number) -> int:
        simpler = self._simplified(op, args)
        if isinstance(simpler, int):
            return simpler
        if simpler is not None:
            op, args, value = "literal", (), simpler
        key = (op, args, value)
        if key not in self._numbers:
            self._numbers[key] = len(self.instructions)
            self.instructions.append(self._instruction(op, args, value))
        return self._numbers[key]

    def _simplified(self, op: str, args: tuple[int, ...]) -> int | float | None:
        """Return the number of an equal value, the literal it is, or None."""
        if not args:
            return None
        literals = [
            self.instructions[arg].value if self.instructions[arg].op == "literal" else None
            for arg in args
        ]
        fold = OPERATIONS[op].fold
        if fold is not None and all(literal is not None for literal in literals):
            return float(fold(*literals))
        neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}.get(op)
        if neutral is not None and literals[1] == neutral:
            return args[0]
        if op in ("add", "mul") and literals[0] == neutral:
            return args[1]
        return None

    def _instruction(self, op: str, args: tuple[int, ...], value: Number) -> Instruction:
        if not args:
            return Instruction(op, args, value, LEAVES[op], varying=op in ("x", "y"))
        operation = OPERATIONS[op]
        kinds = tuple(self.instructions[arg].kind for arg in args)
        assert kinds == operation.takes, f"{op} takes {operation.takes}, got {kinds}"
        varying = any(self.instructions[arg].varying for arg in args)
        # A uniform integer is passed as a float, so it must be a direct conversion of one.
        assert varying or operation.gives == "float" or op == "to_int", f"uniform {op}"
        return Instruction(op, args, value, operation.gives, varying)


def _without_the_dead(instructions: list[Instruction], outputs: tuple[int, ...]) -> Tape:
    """Return the tape of what `outputs` need, renumbered."""
    needed = set(outputs)
    for number in range(len(instructions) - 1, -1, -1):
        if number in needed:
            needed.update(instructions[number].args)
    renumbered = {old: new for new, old in enumerate(sorted(needed))}
    kept = tuple(
        instructions[old]._replace(args=tuple(renumbered[arg] for arg in instructions[old].args))
        for old in renumbered
    )
    results = tuple(renumbered[output] for output in outputs)
    read = {arg for instruction in kept if instruction.varying for arg in instruction.args}
    read.update(results)
    constants = tuple(
        value
        for value in sorted(read)
        if not kept[value].varying and kept[value].op not in ("literal", "int_literal")
    )
    return Tape(instructions=kept, outputs=results, constants=constants)
