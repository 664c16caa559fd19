"""What a student inherited: the report of an initialisation, and its sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from doublure.nets.blocks import Counterparts
from doublure.nets.kept_channels import KeptChannels


@dataclass(frozen=True, kw_only=True)
class Initialized:
    """Report of an initialisation.

    Args:
        how: what the student inherited, in one line.
        errors: squared error of each stage's end and of the logits, divided by the variance of the
            teacher's; after repair, on the images of the repair. Before a ReLU, of the positive
            part.
        notes: what could not be inherited, and why.
    """

    how: str
    errors: Mapping[str, float]
    notes: tuple[str, ...] = ()


def describe_inheritance(
    counterparts: Counterparts, kept: KeptChannels | None, num_inherited: int, num_layers: int
) -> str:
    """Return what the student inherited, in words."""
    if not num_inherited:
        return "no layer of the teacher"
    layers = "" if num_inherited == num_layers else f"{num_inherited} of {num_layers} layers, "
    return f"{layers}{_describe_depth(counterparts)}, {_describe_width(kept)}"


def _describe_depth(counterparts: Counterparts) -> str:
    """Return how many blocks are kept, in words."""
    runs = list(dict.fromkeys(counterparts.runs.values()))
    if all(few == many for few, many in runs):
        return "blocks all"
    if len(runs) == 1:
        return f"blocks {runs[0][0]} of {runs[0][1]} in each stage"
    return "blocks " + ", ".join(f"{few} of {many}" for few, many in counterparts.runs.values())


def _describe_width(kept: KeptChannels | None) -> str:
    """Return the share of channels that are kept, in words."""
    if kept is None:
        return "channels all"
    outputs = [indices[1] for indices in kept.layers.values()]
    total = sum(len(kept.teacher[name][1]) for name in kept.layers if name in kept.teacher)
    return f"channels {sum(int((index >= 0).sum()) for index in outputs) / max(1, total):.0%}"


def name_some(text: str, names: Sequence[str], most: int = 3) -> str:
    """Return the text followed by the first few names."""
    more = ", ..." if len(names) > most else ""
    return f"{text}: {', '.join(names[:most])}{more}"
