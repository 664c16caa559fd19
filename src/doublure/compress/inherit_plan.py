"""Which linear maps of a student are solved, and with which targets of the teacher.

The last map of a kept block must reproduce the output of the teacher's whole segment; any other map
the output of its counterpart; the classifier the logits. If networks of different families have no
blocks in common, the last map of a stage must reproduce the output of the teacher's stage that
`objectives.pairing` pairs with it, if both maps have the same size; if the teacher is wider, the
channels with the largest variance are the targets.
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
    """Finds the linear maps of a student to solve.

    Args:
        student_inputs: normalised inputs of the student for a few images.
        teacher_inputs: the same for the teacher.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        student_inputs: Tensor,
        teacher_inputs: Tensor,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.student_inputs, self.teacher_inputs = student_inputs, teacher_inputs
        self.maps = linear_maps(student, student_inputs[:2])
        self.teacher_maps = linear_maps(teacher, teacher_inputs[:2])
        self.last = _classifier(student, student_inputs[:2], self.maps)
        self._teacher_last = _classifier(teacher, teacher_inputs[:2], self.teacher_maps)

    def counterparts(self, matches: Counterparts, kept: KeptChannels | None) -> dict[str, Repair]:
        """Return the repairs of maps that have a counterpart, by layer."""
        partners = {linear.layer: linear for linear in self.teacher_maps}
        planned: dict[str, Repair] = {}
        for linear in self.maps:
            partner = partners.get(matches.modules.get(linear.layer, ""))
            if partner is None:
                continue
            block = enclosing_block(self.student, linear.layer)
            run = runner(self.student, self.student_inputs[:2], block)
            readout = own_readout(self.student, linear, run)
            self._add(planned, readout, own_readout(self.teacher, partner), kept)
        # The output of a kept block is compared with the output of the segment that it replaces.
        for block, end in matches.ends.items():
            if enclosing_block(self.student, block) in ("", block):
                output = end_readout(self.student, self.student_inputs[:2], block, self.maps)
                target = end_readout(self.teacher, self.teacher_inputs[:2], end, self.teacher_maps)
                if output is not None and target is not None:
                    self._add(planned, output, target, kept, matches.ended_by(block))
        return planned

    def classifier(self) -> Repair | None:
        """Return the repair of the last layer, on the logits; None if there is no such layer."""
        if self.last is None or self._teacher_last is None:
            return None
        logits = own_readout(self.student, self.last)
        target = own_readout(self.teacher, self._teacher_last)
        return Repair(
            student=logits, teacher=target, kept=all_places(len(logits.scale)), ends=LOGITS
        )

    def stages(self) -> dict[str, Repair]:
        """Return the repairs of the last maps of stages, by layer."""
        planned = {}
        inputs, teacher_inputs = self.student_inputs[:2], self.teacher_inputs[:2]
        ends, teacher_ends = _ends(self.student, inputs), _ends(self.teacher, teacher_inputs)
        for pair in pair_stages(ends, teacher_ends) if ends and teacher_ends else ():
            if not _same_size(pair.student, pair.teacher):
                continue
            output = end_readout(self.student, inputs, pair.student.name, self.maps)
            target = end_readout(self.teacher, teacher_inputs, pair.teacher.name, self.teacher_maps)
            if output is not None and target is not None:
                channels = self._channels_of_largest_variance(len(output.scale), target)
                planned[output.map.layer] = Repair(
                    student=output, teacher=target, kept=channels, ends=pair.student.name
                )
        return planned

    def in_order(self, planned: Mapping[str, Repair]) -> list[Repair]:
        """Return the repairs in the order of the student's forward pass."""
        return [planned[linear.layer] for linear in self.maps if linear.layer in planned]

    def _add(
        self,
        planned: dict[str, Repair],
        output: Readout,
        target: Readout,
        kept: KeptChannels | None,
        ends: str = "",
    ) -> None:
        channels = self._matching_channels(output.map, target.map, kept)
        if channels is not None and output.map.places == target.map.places:
            planned[output.map.layer] = Repair(
                student=output, teacher=target, kept=channels, ends=ends
            )

    def _matching_channels(
        self, own: LinearMap, partner: LinearMap, kept: KeptChannels | None
    ) -> Tensor | None:
        """Return the partner's channel for each channel of a map; None if that is unknown."""
        channels = kept.places_in(own.layer, partner.layer) if kept is not None else None
        if channels is not None:
            return channels if bool((channels >= 0).any()) else None
        width = width_of(self.student.get_submodule(own.layer))
        teacher_width = width_of(self.teacher.get_submodule(partner.layer))
        return all_places(width) if width == teacher_width else None

    def _channels_of_largest_variance(self, width: int, teacher: Readout) -> Tensor:
        """Return the teacher's channels of largest variance; -1 for each one that is missing."""

        def everywhere(_readout: int, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
            grid = (shape[0], *shape[2:]) if len(shape) == 4 else shape[:-1]
            total = int(torch.tensor(grid).prod())
            return tuple(torch.unravel_index(torch.arange(total), grid))

        rows, _ = read_rows(self.teacher, self.teacher_inputs, [teacher], everywhere)[0]
        best = rows.double().var(0).argsort(descending=True, stable=True)[:width].sort().values
        return torch.cat((best.cpu(), torch.full((width - len(best),), -1)))


def _classifier(network: nn.Module, inputs: Tensor, maps: Sequence[LinearMap]) -> LinearMap | None:
    """Return the map whose output is the network's output; None if there is no such map."""
    if not maps or maps[-1].places:
        return None
    with torch.no_grad():
        logits = network(inputs)
    output = answer_of(network, inputs, maps[-1].last)
    same_shape = isinstance(logits, Tensor) and logits.shape == output.shape
    return maps[-1] if same_shape and torch.equal(logits, output) else None


def _ends(network: nn.Module, inputs: Tensor) -> tuple[Layer, ...]:
    try:
        return find_stages(network, inputs).ends
    except ValueError:  # no layer has a map or tokens as its output
        return ()


def _same_size(one: Layer, other: Layer) -> bool:
    return one.tokens == other.tokens and one.shape[1:] == other.shape[1:]
