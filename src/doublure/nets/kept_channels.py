"""Assignment of the teacher's channels to the channels of a narrower student.

Both networks are traced (`nets.channels`), so that channels of one group have one label. Layer by
layer, each unassigned label of the student gets an unused label of the teacher: the one at the same
index if both layers are equally wide, else the most important ones of the layer, in their order. So
a residual stream keeps the same channels in all its layers. Remaining labels, of a student wider
than its teacher, have no counterpart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from doublure.nets.blocks import Counterparts
from doublure.nets.channels import Channels

# Indices of the teacher's channels, by channel of the student; -1 for none.
Places = Tensor


@dataclass(frozen=True, kw_only=True)
class KeptChannels:
    """Channels of the teacher in each layer of the student.

    Args:
        layers: indices of inputs and outputs.
        labels: the teacher's label for each label of the student.
        outputs: the student's labels of its layers' outputs.
        teacher: the teacher's labels.
    """

    layers: dict[str, tuple[Places, Places]]
    labels: dict[int, int]
    outputs: dict[str, Tensor]
    teacher: dict[str, tuple[Tensor, Tensor]]

    def places_in(self, layer: str, teachers: str) -> Places | None:
        """Return the output of the teacher's layer for each output of a layer of the student."""
        if layer not in self.outputs or teachers not in self.teacher:
            return None
        return _places(self.outputs[layer], self.teacher[teachers][1], self.labels)


def keep_channels(
    student: Channels, teacher: Channels, found: Counterparts, importance: Mapping[int, float]
) -> KeptChannels:
    """Return the channels that each layer of the student keeps.

    Args:
        importance: importance of the teacher's labels; 0 for missing ones.
    """
    labels: dict[int, int] = {}
    taken: set[int] = set()
    shared = {
        name: (pair, teacher.layers[found.modules[name]])
        for name, pair in student.layers.items()
        if found.modules.get(name) in teacher.layers
    }
    for mine, taught in shared.values():
        for ours, theirs in zip(mine, taught, strict=True):
            _assign(ours.tolist(), theirs.tolist(), labels, taken, importance)
    layers = {
        name: (_places(mine[0], taught[0], labels), _places(mine[1], taught[1], labels))
        for name, (mine, taught) in shared.items()
    }
    outputs = {name: pair[1] for name, pair in student.layers.items()}
    return KeptChannels(layers=layers, labels=labels, outputs=outputs, teacher=teacher.layers)


@torch.no_grad()
def squared_weights(network: nn.Module, channels: Channels) -> dict[int, float]:
    """Return, for each label, the sum of the squared weights that read it."""
    found: dict[int, float] = {}
    for name, (inputs, _) in channels.layers.items():
        weight = getattr(network.get_submodule(name), "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1 and weight.shape[1] == len(inputs):
            squares = weight.transpose(0, 1).flatten(1).square().sum(1)
            for label, square in zip(inputs.tolist(), squares.tolist(), strict=True):
                found[label] = found.get(label, 0.0) + square
    return found


def _assign(
    ours: list[int],
    theirs: list[int],
    labels: dict[int, int],
    taken: set[int],
    importance: Mapping[int, float],
) -> None:
    """Assign labels of the teacher to the student's labels of one layer, in place."""
    if len(ours) == len(theirs):
        for one, other in zip(ours, theirs, strict=True):
            if one not in labels and other not in taken:
                labels[one] = other
                taken.add(other)
    waiting = [label for label in dict.fromkeys(ours) if label not in labels]
    free = [label for label in dict.fromkeys(theirs) if label not in taken]
    ranked = sorted(free, key=lambda label: -importance.get(label, 0.0))[: len(waiting)]
    best = set(ranked)
    for one, other in zip(waiting, (label for label in free if label in best), strict=False):
        labels[one] = other
        taken.add(other)


def _places(ours: Tensor, theirs: Tensor, labels: Mapping[int, int]) -> Places:
    """Return the indices of the assigned labels; repeated labels use their occurrences in order."""
    where: dict[int, list[int]] = {}
    for place, label in enumerate(theirs.tolist()):
        where.setdefault(label, []).append(place)
    seen: dict[int, int] = {}
    found = []
    for label in ours.tolist():
        places = where.get(labels.get(label, -1), [])
        turn = seen.get(label, 0)
        seen[label] = turn + 1
        found.append(places[turn] if turn < len(places) else -1)
    return torch.tensor(found, dtype=torch.int64)


def all_places(width: int) -> Places:
    """Return the indices for a layer that keeps all its channels."""
    return torch.arange(width)


@torch.no_grad()
def copy_kept_(
    layer: nn.Module, teachers: nn.Module, inputs: Places, outputs: Places
) -> tuple[str, ...]:
    """Copy the kept weights of the teacher into a layer; return the names of the written tensors.

    Channels without a counterpart are not changed, except that their effect on the others becomes
    0.
    """
    written = []
    held = dict(teachers.named_parameters(recurse=False)) | dict(
        teachers.named_buffers(recurse=False)
    )
    rows = (outputs >= 0).nonzero()[:, 0]
    for name, values in [
        *layer.named_parameters(recurse=False),
        *layer.named_buffers(recurse=False),
    ]:
        other = held.get(name)
        if other is None or other.dim() != values.dim():
            continue
        if values.dim() < 2:
            if values.dim() == 0:
                values.copy_(other)
            else:
                values[rows] = other[outputs[rows]].to(values)
        elif values.shape[2:] == other.shape[2:]:
            values[rows] = _columns(other[outputs[rows]], values[rows], inputs)
        else:
            continue
        written.append(name)
    return tuple(written)


def _columns(kept: Tensor, fresh: Tensor, inputs: Places) -> Tensor:
    if kept.shape[1] == fresh.shape[1] and kept.shape[1] != len(inputs):
        return kept.to(fresh)  # a depthwise layer, where each output reads one input
    chosen = torch.zeros_like(fresh)
    columns = (inputs >= 0).nonzero()[:, 0]
    chosen[:, columns] = kept[:, inputs[columns]].to(fresh)
    return chosen
