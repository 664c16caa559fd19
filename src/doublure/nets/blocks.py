"""Blocks: runs of similar siblings in a network, and counterparts between two networks.

A block is a module that contains layers with weights, or, in a plain sequence of layers, one layer
with weights and all that follow before the next one. A run is a maximal sequence of neighbours of
one kind in one container; a pooling ends it. For runs of m and n <= m blocks, the m blocks are
divided into n segments as evenly as possible: block i is the counterpart of the first block of
segment i, and its output that of the last block's output. All other modules are counterparts by
name.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList)
_LAYERS = (nn.Conv2d, nn.Linear)
_POOLINGS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)

# Names of a block's modules in their container; the first one names the block.
Block = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Counterparts:
    """Corresponding modules of teacher and student, by dotted path.

    Args:
        modules: the teacher's module for each module of the student.
        ends: the last block of the teacher's segment for each block of the student.
        runs: numbers of blocks of student and teacher, by container of the student.
    """

    modules: dict[str, str] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    runs: dict[str, tuple[int, int]] = field(default_factory=dict)

    def ended_by(self, block: str) -> str:
        """Return the container with this last block; "" if there is none."""
        container = block.rpartition(".")[0]
        siblings = [other for other in self.ends if other.rpartition(".")[0] == container]
        return container if siblings and block == siblings[-1] else ""


def segments(many: int, few: int) -> tuple[tuple[int, int], ...]:
    """Return first and last member of each of `few` segments of `many`, as even as possible."""
    if not 1 <= few <= many:
        raise ValueError(
            f"{many} blocks cannot be divided into {few} segments of at least one block"
        )
    bounds = [round(part * many / few) for part in range(few + 1)]
    return tuple((start, end - 1) for start, end in pairwise(bounds))


def find_counterparts(student: nn.Module, teacher: nn.Module) -> Counterparts:
    """Return the corresponding modules of two architectures."""
    found = Counterparts()
    _compare(student, teacher, "", "", found)
    return found


def find_runs(container: nn.Module) -> tuple[tuple[Block, ...], ...]:
    """Return the runs of blocks among a container's children, by their names."""
    if not isinstance(container, _CONTAINERS):
        return ()
    runs = groupby(_blocks(container), key=lambda item: item[0])
    return tuple(tuple(block for _, block in members) for kind, members in runs if kind is not None)


def enclosing_block(network: nn.Module, path: str) -> str:
    """Return the outermost block that is or contains a module, or None."""
    parts = path.split(".")
    for end in range(2, len(parts) + 1):
        parent, name = ".".join(parts[: end - 1]), ".".join(parts[:end])
        container, inner = network.get_submodule(parent), network.get_submodule(name)
        if isinstance(container, _CONTAINERS) and _is_block(inner):
            return name
    return ""


def _blocks(container: nn.Module) -> Iterator[tuple[object, Block]]:
    """Yield the blocks of a container with their kinds; None is the kind that ends a run."""
    plain: list[str] = []
    for name, module in container.named_children():
        begins = isinstance(module, _LAYERS)
        ends = _is_block(module) or isinstance(module, _POOLINGS)
        if plain and (begins or ends):
            yield nn.Module, tuple(plain)
            plain = []
        if begins or (plain and not ends):
            plain.append(name)
        elif ends:
            yield (type(module) if _is_block(module) else None), (name,)
    if plain:
        yield nn.Module, tuple(plain)


def _is_block(module: nn.Module) -> bool:
    has_layers = any(True for _ in module.children()) and any(True for _ in module.parameters())
    return has_layers and not isinstance(module, _CONTAINERS)


def _compare(
    student: nn.Module, teacher: nn.Module, ours: str, theirs: str, found: Counterparts
) -> None:
    found.modules[ours] = theirs
    inside = dict(teacher.named_children())
    partners = {name: name for name, _ in student.named_children() if name in inside}
    runs, taught = find_runs(student), find_runs(teacher)
    if len(runs) == len(taught):
        for few, many in zip(runs, taught, strict=True):
            _divide(few, many, ours, theirs, partners, found)
    for name, partner in partners.items():
        one, other = student.get_submodule(name), inside[partner]
        _compare(one, other, _path(ours, name), _path(theirs, partner), found)


def _divide(
    few: tuple[Block, ...],
    many: tuple[Block, ...],
    ours: str,
    theirs: str,
    partners: dict[str, str],
    found: Counterparts,
) -> None:
    """Add the counterparts of the blocks of a run."""
    for block in few:
        for name in block:
            partners.pop(name, None)
    if len(few) > len(many):
        return
    found.runs[ours] = (len(few), len(many))
    for block, (start, end) in zip(few, segments(len(many), len(few)), strict=True):
        partners.update(zip(block, many[start], strict=False))
        found.ends[_path(ours, block[0])] = _path(theirs, many[end][0])


def _path(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name
