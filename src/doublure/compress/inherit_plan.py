"""What of a student is solved, and what for: every linear map that stands for one of the teacher's.

A kept block's last map must answer what the teacher's whole segment answers, at the block's end;
any other map what its counterpart answers; the classifier the logits. Where networks of different
families have no blocks in common, the last map before a stage's end must answer what is answered
there at the stage of the teacher that `objectives.pairing` pairs it with, as far as both have maps
of one size; of a wider teacher the channels that vary most.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from doublure.compress.solving import Repair
from doublure.nets.blocks import Counterparts, enclosing_block
from doublure.nets.find_readouts import end_readout, own_readout
from doublure.nets.kept_channels import KeptChannels, all_places
from doublure.nets.linear_maps import LinearMap, linear_maps, width_of
from doublure.nets.readouts import Readout, answer_of, read_rows, runner
from doublure.nets.stages import Layer, find_stages
from doublure.objectives.pairing import pair_stages

LOGITS = "logits"


class InheritancePlan:
    """Finds what to solve in a student.

    Args:
        ours: what the student's architecture is shown of a few images.
        theirs: what the teacher's is.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, ours: Tensor, theirs: Tensor
    ) -> None:
        self.student, self.teacher, self.ours, self.theirs = student, teacher, ours, theirs
        self.maps = linear_maps(student, ours[:2])
        self.taught = linear_maps(teacher, theirs[:2])
        self.last = _classifier(student, ours[:2], self.maps)
        self._last_taught = _classifier(teacher, theirs[:2], self.taught)

    def counterparts(self, found: Counterparts, kept: KeptChannels | None) -> dict[str, Repair]:
        """Return repairs of what has a counterpart, by layer."""
        partners = {linear.layer: linear for linear in self.taught}
        planned: dict[str, Repair] = {}
        for linear in self.maps:
            partner = partners.get(found.modules.get(linear.layer, ""))
            if partner is None:
                continue
            block = enclosing_block(self.student, linear.layer)
            run = runner(self.student, self.ours[:2], block)
            one = own_readout(self.student, linear, run)
            self._add(planned, one, own_readout(self.teacher, partner), kept)
        for block, end in found.ends.items():
            if enclosing_block(self.student, block) in ("", block):
                first = end_readout(self.student, self.ours[:2], block, self.maps)
                last = end_readout(self.teacher, self.theirs[:2], end, self.taught)
                if first is not None and last is not None:
                    self._add(planned, first, last, kept, found.ended_by(block))
        return planned

    def classifier(self) -> Repair | None:
        """Return the repair of the last layer, on the logits; None where there is no such layer."""
        mine, taught = self.last, self._last_taught
        if mine is None or taught is None:
            return None
        one, other = own_readout(self.student, mine), own_readout(self.teacher, taught)
        return Repair(student=one, teacher=other, kept=all_places(len(one.scale)), ends=LOGITS)

    def stages(self) -> dict[str, Repair]:
        """Return repairs of the last maps of stages, by layer."""
        planned = {}
        mine, taught = _ends(self.student, self.ours[:2]), _ends(self.teacher, self.theirs[:2])
        for pair in pair_stages(mine, taught) if mine and taught else ():
            if not _alike(pair.student, pair.teacher):
                continue
            one = end_readout(self.student, self.ours[:2], pair.student.name, self.maps)
            other = end_readout(self.teacher, self.theirs[:2], pair.teacher.name, self.taught)
            if one is not None and other is not None:
                places = self._most_varied(len(one.scale), other)
                planned[one.map.layer] = Repair(
                    student=one, teacher=other, kept=places, ends=pair.student.name
                )
        return planned

    def in_order(self, planned: Mapping[str, Repair]) -> list[Repair]:
        """Return repairs in the order of the student's calls."""
        return [planned[linear.layer] for linear in self.maps if linear.layer in planned]

    def _add(
        self,
        planned: dict[str, Repair],
        one: Readout,
        other: Readout,
        kept: KeptChannels | None,
        ends: str = "",
    ) -> None:
        places = self._places(one.map, other.map, kept)
        if places is not None and one.map.places == other.map.places:
            planned[one.map.layer] = Repair(student=one, teacher=other, kept=places, ends=ends)

    def _places(
        self, ours: LinearMap, theirs: LinearMap, kept: KeptChannels | None
    ) -> Tensor | None:
        """Return which channel of one map each of another stands for; None where nobody knows."""
        places = kept.places_in(ours.layer, theirs.layer) if kept is not None else None
        if places is not None:
            return places if bool((places >= 0).any()) else None
        mine = width_of(self.student.get_submodule(ours.layer))
        taught = width_of(self.teacher.get_submodule(theirs.layer))
        return all_places(mine) if mine == taught else None

    def _most_varied(self, width: int, teacher: Readout) -> Tensor:
        """Return the channels of a teacher's map that vary most; -1 where it has no more."""

        def everywhere(_readout: int, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
            grid = (shape[0], *shape[2:]) if len(shape) == 4 else shape[:-1]
            total = int(torch.tensor(grid).prod())
            return tuple(torch.unravel_index(torch.arange(total), grid))

        rows, _ = read_rows(self.teacher, self.theirs, [teacher], everywhere)[0]
        best = rows.double().var(0).argsort(descending=True, stable=True)[:width].sort().values
        return torch.cat((best.cpu(), torch.full((width - len(best),), -1)))


def _classifier(network: nn.Module, inputs: Tensor, maps: Sequence[LinearMap]) -> LinearMap | None:
    """Return the map whose answer is the network's; None where there is no such map."""
    if not maps or maps[-1].places:
        return None
    with torch.no_grad():
        answer = network(inputs)
    said = answer_of(network, inputs, maps[-1].last)
    alike = isinstance(answer, Tensor) and answer.shape == said.shape
    return maps[-1] if alike and torch.equal(answer, said) else None


def _ends(network: nn.Module, inputs: Tensor) -> tuple[Layer, ...]:
    try:
        return find_stages(network, inputs).ends
    except ValueError:  # none of its layers answers with a map or with tokens
        return ()


def _alike(one: Layer, other: Layer) -> bool:
    return one.tokens == other.tokens and one.shape[1:] == other.shape[1:]
