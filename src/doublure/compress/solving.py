"""Solve the linear maps of a student in order, each on the outputs of the solved maps before it.

The teacher's outputs are computed once, for as many repairs as fit in memory. The student's inputs
of a map are computed when it is solved, because the maps before it have changed. In a network of
blocks only the map's own block is called for this, with the stored inputs of the block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from doublure.compress.least_squares import (
    Rows,
    change_map_,
    draw_places,
    input_rows,
    solve,
)
from doublure.core.seeding import child
from doublure.nets.blocks import enclosing_block
from doublure.nets.linear_maps import has_constant
from doublure.nets.network import Network
from doublure.nets.readouts import Call, Places, Readout, calls_of, read_map, read_rows

# Memory for the teacher's outputs; more repairs need another forward pass.
_TARGET_BYTES = 2**29
# Memory for the inputs of a map, which limits its rows.
_INPUT_BYTES = 2**29
# Memory for the inputs of a block; above it, the whole network is called.
_BLOCK_BYTES = 2**29
# Minimum number of rows, for maps with few unknowns.
_FEWEST = 8192
# Squared errors below this share of the variance are rounding errors of float32.
EXACT = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Repair:
    """A linear map of the student, and its target in the teacher.

    Args:
        kept: the teacher's channel for each channel of the map; -1 if there is none, and the output
            of that channel does not change.
        ends: name of the stage that ends here; "" for none.
    """

    student: Readout
    teacher: Readout
    kept: Tensor
    ends: str = ""


# Outputs of one teacher layer and their positions, one element per slice of images.
_Target = list[tuple[Tensor, Places]]


class Solver:
    """Solves repairs; both networks are in eval mode, the student's weights change in place.

    Args:
        slices: images in [0, 1], one tensor per forward pass.
        rows: number of input rows per unknown of a map.
        rounds: number of solves for a map that a ReLU follows; see `least_squares`.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network,
        slices: Sequence[Tensor],
        *,
        rows: int,
        ridge: float,
        rounds: int,
        rng: torch.Generator,
    ) -> None:
        self._student, self._teacher = student, teacher
        self._slices, self._count = slices, sum(len(part) for part in slices)
        self._rows, self._ridge, self._rounds, self._rng = rows, ridge, rounds, rng
        self._block_calls: tuple[str, list[Call]] = ("", [])

    def solve(self, repairs: Sequence[Repair]) -> dict[str, float]:
        """Solve the repairs in order; return the squared error of each stage's end.

        Errors are relative to the variance of the teacher's outputs; before a ReLU, both are of the
        positive part.
        """
        errors = {}
        for group in self._groups(repairs):
            targets = self._teacher_targets(repairs, group)
            for i in group:
                error = self._repair(repairs[i], targets.pop(i))
                if repairs[i].ends:
                    errors[repairs[i].ends] = error
        return errors

    def _groups(self, repairs: Sequence[Repair]) -> Iterator[list[int]]:
        """Yield indices of consecutive repairs whose targets fit in memory together."""
        group: list[int] = []
        size = 0
        for i, repair in enumerate(repairs):
            bytes_needed = 4 * self._num_rows(repair) * len(repair.kept)
            if group and size + bytes_needed > _TARGET_BYTES:
                yield group
                group, size = [], 0
            group.append(i)
            size += bytes_needed
        if group:
            yield group

    def _num_rows(self, repair: Repair) -> int:
        layer = self._student.body.get_submodule(repair.student.map.layer)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        unknowns = layer.weight[0].numel()
        maximum = _INPUT_BYTES // (4 * groups * unknowns)
        return min(maximum, max(_FEWEST, self._rows * unknowns))

    def _teacher_targets(
        self, repairs: Sequence[Repair], group: Sequence[int]
    ) -> dict[int, _Target]:
        targets: dict[int, _Target] = {i: [] for i in group}
        for number, images in enumerate(self._slices):

            def choose(place: int, shape: tuple[int, ...], number: int = number) -> Places:
                i = group[place]
                # This slice's part of the rows, rounded up.
                count = -(-self._num_rows(repairs[i]) * shape[0] // self._count)
                return draw_places(shape, count, child(self._rng, "places", i, number))

            readouts = [repairs[i].teacher for i in group]
            inputs = self._teacher.to_input(images)
            outputs = read_rows(self._teacher.body, inputs, readouts, choose)
            for i, (rows, places) in zip(group, outputs, strict=True):
                kept = repairs[i].kept.to(rows.device)
                targets[i].append((rows[:, kept.clamp(min=0)], places))
        return targets

    def _repair(self, repair: Repair, targets: _Target) -> float:
        """Solve one linear map; return the remaining squared error relative to the variance."""
        body, linear = self._student.body, repair.student.map
        layer = body.get_submodule(linear.layer)
        unmatched = repair.kept < 0
        parts: list[Rows] = []
        for run, (target, places) in zip(self._runs(repair), targets, strict=True):
            inputs, output = read_map(body, run, repair.student)
            outputs = repair.student.rows(output, places)
            target[:, unmatched] = outputs[:, unmatched]
            parts.append(
                Rows(inputs=input_rows(layer, inputs, places), outputs=outputs, targets=target)
            )
            # If the outputs equal the targets on the first slice, there is nothing to solve.
            if len(parts) == 1 and _is_exact(parts[0]):
                return 0.0
        rounds = self._rounds if repair.student.rectified else 0
        constant = has_constant(body, linear)
        solution = solve(parts, self._ridge, constant=constant, rounds=rounds)
        change_map_(body, linear, solution)
        return solution.after / solution.varies

    def _runs(self, repair: Repair) -> Iterator[Callable[[], Any]]:
        """Yield, for each slice, a forward call that includes the layer of a repair."""
        body = self._student.body
        name = enclosing_block(body, repair.student.module)
        if not repair.student.map.layer.startswith(f"{name}."):
            name = ""
        if name and name != self._block_calls[0]:
            self._block_calls = (name, self._calls(name))
        block = body.get_submodule(name)
        for i, images in enumerate(self._slices):
            if name and self._block_calls[1]:
                call = self._block_calls[1][i]
                yield partial(block, *call.args, **call.kwargs)
            else:
                yield partial(body, self._student.to_input(images))

    def _calls(self, name: str) -> list[Call]:
        """Return the inputs of a block, one call per slice; [] if they need too much memory."""
        kept: list[Call] = []
        for images in self._slices:
            calls = calls_of(self._student.body, self._student.to_input(images), name)
            size = sum(call.bytes for call in calls) * len(self._slices)
            if len(calls) != 1 or size > _BLOCK_BYTES:
                return []
            kept += calls
        return kept


def _is_exact(rows: Rows) -> bool:
    targets = rows.targets.double()
    error = float((rows.outputs - targets).square().sum())
    return error <= EXACT * float((targets - targets.mean(0)).square().sum())
