"""Repairs, one after another: each linear map of a student is solved behind those before it.

What the teacher answers is asked once for as many repairs as fit in memory. What the student shows
a map is asked when its turn comes, as the maps before it have changed; of a network made of blocks
only the map's own block is called for that, on what was shown to the block.
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

# So much is kept of what the teacher answers, before it is asked again,
_ASKED_BYTES = 2**29
# of what a map sees, which limits its rows,
_SEEN_BYTES = 2**29
# and of what a block is shown, before it is asked for with the whole network.
_SHOWN_BYTES = 2**29
# Rows at least, for maps with few unknowns.
_FEWEST = 8192
# Squared errors below this share of what varies are float32's.
EXACT = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Repair:
    """A linear map of the student, and what it must answer.

    Args:
        kept: the teacher's channel by channel of the map; -1 where there is none, and the answer
            stays.
        ends: name of the stage that ends here; empty for none.
    """

    student: Readout
    teacher: Readout
    kept: Tensor
    ends: str = ""


# What the teacher answers at one place of the network, slice by slice, and from where.
_Wanted = list[tuple[Tensor, Places]]


class Solver:
    """Both networks are in eval mode; the student's weights are written in place.

    Args:
        slices: images in [0, 1], as many as go through a network at once.
        rows: of inputs for each unknown of a map.
        rounds: for a map behind a ReLU; see `least_squares`.
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
        self._near: tuple[str, list[Call]] = ("", [])

    def solve(self, repairs: Sequence[Repair]) -> dict[str, float]:
        """Repair in the order given; return the squared error of each stage's end.

        It is a share of how much the teacher's answers vary; behind a ReLU, of what passes.
        """
        errors = {}
        for group in self._groups(repairs):
            wanted = self._ask_teacher(repairs, group)
            for i in group:
                error = self._repair(repairs[i], wanted.pop(i))
                if repairs[i].ends:
                    errors[repairs[i].ends] = error
        return errors

    def _groups(self, repairs: Sequence[Repair]) -> Iterator[list[int]]:
        """Yield numbers of repairs whose wanted answers fit in memory together."""
        group: list[int] = []
        size = 0
        for i, repair in enumerate(repairs):
            needs = 4 * self._rows_of(repair) * len(repair.kept)
            if group and size + needs > _ASKED_BYTES:
                yield group
                group, size = [], 0
            group.append(i)
            size += needs
        if group:
            yield group

    def _rows_of(self, repair: Repair) -> int:
        layer = self._student.body.get_submodule(repair.student.map.layer)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        unknowns = layer.weight[0].numel()
        most = _SEEN_BYTES // (4 * groups * unknowns)
        return min(most, max(_FEWEST, self._rows * unknowns))

    def _ask_teacher(self, repairs: Sequence[Repair], group: Sequence[int]) -> dict[int, _Wanted]:
        wanted: dict[int, _Wanted] = {i: [] for i in group}
        for number, images in enumerate(self._slices):

            def choose(place: int, shape: tuple[int, ...], number: int = number) -> Places:
                i = group[place]
                count = -(-self._rows_of(repairs[i]) * shape[0] // self._count)
                return draw_places(shape, count, child(self._rng, "places", i, number))

            readouts = [repairs[i].teacher for i in group]
            inputs = self._teacher.shown(images)
            read = read_rows(self._teacher.body, inputs, readouts, choose)
            for i, (rows, places) in zip(group, read, strict=True):
                kept = repairs[i].kept.to(rows.device)
                wanted[i].append((rows[:, kept.clamp(min=0)], places))
        return wanted

    def _repair(self, repair: Repair, wanted: _Wanted) -> float:
        """Solve one linear map; return the squared error that remains, as a share of variance."""
        body, linear = self._student.body, repair.student.map
        layer = body.get_submodule(linear.layer)
        without = repair.kept < 0
        parts: list[Rows] = []
        for run, (goal, places) in zip(self._runs(repair), wanted, strict=True):
            given, answer = read_map(body, run, repair.student)
            ours = repair.student.rows(answer, places)
            goal[:, without] = ours[:, without]
            parts.append(Rows(seen=input_rows(layer, given, places), answered=ours, wanted=goal))
            if len(parts) == 1 and _is_exact(parts[0]):
                return 0.0
        rounds = self._rounds if repair.student.rectified else 0
        constant = has_constant(body, linear)
        solution = solve(parts, self._ridge, constant=constant, rounds=rounds)
        change_map_(body, linear, solution)
        return solution.after / solution.varies

    def _runs(self, repair: Repair) -> Iterator[Callable[[], Any]]:
        """Yield, by slice, a call that leads through the readout of a repair."""
        body = self._student.body
        name = enclosing_block(body, repair.student.module)
        if not repair.student.map.layer.startswith(f"{name}."):
            name = ""
        if name and name != self._near[0]:
            self._near = (name, self._calls(name))
        block = body.get_submodule(name)
        for i, images in enumerate(self._slices):
            if name and self._near[1]:
                call = self._near[1][i]
                yield partial(block, *call.args, **call.kwargs)
            else:
                yield partial(body, self._student.shown(images))

    def _calls(self, name: str) -> list[Call]:
        """Return what a block is shown, by slice; nothing where that is too much to keep."""
        kept: list[Call] = []
        for images in self._slices:
            calls = calls_of(self._student.body, self._student.shown(images), name)
            size = sum(call.bytes for call in calls) * len(self._slices)
            if len(calls) != 1 or size > _SHOWN_BYTES:
                return []
            kept += calls
        return kept


def _is_exact(rows: Rows) -> bool:
    wide = rows.wanted.double()
    off = float((rows.answered - wide).square().sum())
    return off <= EXACT * float((wide - wide.mean(0)).square().sum())
