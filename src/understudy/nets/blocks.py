"""Blocks: the runs of alike siblings in a network, and which ones of two networks are counterparts.

A run is the longest sequence of neighbours in one container that are of one class and have layers
with weights inside. Of a run of m blocks and one of n <= m, the n blocks stand for n segments of
the m, as even as whole blocks allow: block i is the counterpart of the first of its segment, and
its answer stands for the answer of the last. All other modules are counterparts by name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True, kw_only=True)
class Counterparts:
    """Which module of the teacher stands where one of the student does, by dotted path.

    Args:
        modules: the teacher's module by the student's.
        ends: the last block of its segment by block of the student.
        runs: how many blocks of how many, by container of the student.
    """

    modules: dict[str, str]
    ends: dict[str, str]
    runs: dict[str, tuple[int, int]]


def segments(many: int, few: int) -> tuple[tuple[int, int], ...]:
    """Return first and last member of each of `few` segments of `many`, as even as they can be."""
    if not 1 <= few <= many:
        raise ValueError(f"{many} blocks cannot be divided into {few} segments of one or more")
    bounds = [round(part * many / few) for part in range(few + 1)]
    return tuple((start, end - 1) for start, end in pairwise(bounds))


def find_counterparts(student: nn.Module, teacher: nn.Module) -> Counterparts:
    """Return which modules of two architectures stand for each other."""
    found = Counterparts(modules={}, ends={}, runs={})
    _compare(student, teacher, "", "", found)
    return found


def find_runs(container: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return the runs of blocks among a container's children, by their names."""
    if not isinstance(container, _CONTAINERS):
        return ()
    children = container.named_children()
    kinds = groupby(children, key=lambda item: type(item[1]) if _is_block(item[1]) else None)
    return tuple(tuple(name for name, _ in members) for kind, members in kinds if kind is not None)


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
            for name in few:
                partners.pop(name, None)
            if len(few) <= len(many):
                found.runs[ours] = (len(few), len(many))
                for name, (start, end) in zip(few, segments(len(many), len(few)), strict=True):
                    partners[name] = many[start]
                    found.ends[_path(ours, name)] = _path(theirs, many[end])
    for name, partner in partners.items():
        one, other = student.get_submodule(name), inside[partner]
        _compare(one, other, _path(ours, name), _path(theirs, partner), found)


def _path(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def ancestors(path: str) -> Iterator[str]:
    """Yield the paths of what a module lies in, innermost first."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path
