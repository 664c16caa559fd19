"""Which layers of student and teacher are compared, and what was decided, in words.

Stages of networks of different families are paired last with last; the others, in order, so that
the sum over pairs of |log2(s_i / s_j)| + |d_i - d_j| is smallest: s the side of a map in pixels,
d the share of the layers with weights that was passed. Every stage of the network that has fewer
finds a partner; what remains of the other is left out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from doublure.core.checks import one_of
from doublure.core.protocols import Batch, FeatureNames, LossTerms, Outputs
from doublure.nets.adapters import to_smaller
from doublure.nets.stages import Layer, Stages, find_layers, find_stages

Pairs = list[tuple[Tensor, Tensor]]
Which = Literal["stages", "inner", "middle", "last", "features"]


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Which layers are compared: named on both sides, in pairs, or found.

    Args:
        student: names of layers, "NAME:input" for what enters one; () finds them.
        teacher: as many of the teacher's.
        find: "stages" all stage ends, "inner" all but the last, "middle" one, "last" one, each
            after its activation or before it, as the objective asks; "features" the vector that
            enters the classifier.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    find: Which = "stages"

    def __post_init__(self) -> None:
        one_of("layers to find", self.find, get_args(Which))
        if len(self.student) != len(self.teacher):
            raise ValueError(
                f"layers are compared in pairs, but {len(self.student)} of the student and "
                f"{len(self.teacher)} of the teacher are named; name as many of both, or none"
            )


STAGES, INNER, MIDDLE = Layers(), Layers(find="inner"), Layers(find="middle")
LAST, FEATURES = Layers(find="last"), Layers(find="features")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two layers that are compared; maps of both are read by `Layer.as_map`."""

    student: Layer
    teacher: Layer


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The layers that an objective compares."""

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()

    @property
    def features(self) -> FeatureNames:
        """The layers to tap on either side."""
        return FeatureNames(
            student=tuple(dict.fromkeys(pair.student.name for pair in self.pairs)),
            teacher=tuple(dict.fromkeys(pair.teacher.name for pair in self.pairs)),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """The pairs as a table, a line each."""
        rows = [[_told(pair.student), _told(pair.teacher)] for pair in self.pairs]
        width = max(len(ours) for ours, _ in rows)
        lines = [f"layers: student {ours:<{width}}  <- teacher {theirs}" for ours, theirs in rows]
        return (*lines, *(f"layers: {name} is left out" for name in self.left_out))

    def maps(self, student: Outputs, teacher: Outputs) -> Pairs:
        """Return the maps of each pair, float32, batch x channels x height x width."""
        return [
            (
                pair.student.as_map(student.features[pair.student.name]),
                pair.teacher.as_map(teacher.features[pair.teacher.name]),
            )
            for pair in self.pairs
        ]

    def vectors(self, student: Outputs, teacher: Outputs) -> Pairs:
        """Return the vectors of each pair, batch x channels: means over a map's places."""
        return [
            (
                pair.student.as_vector(student.features[pair.student.name]),
                pair.teacher.as_vector(teacher.features[pair.teacher.name]),
            )
            for pair in self.pairs
        ]


class Compared(nn.Module):
    """A loss on paired layers.

    Args:
        compare: makes terms of the pairs (student, teacher), from the input on.
        adapters: one for each pair, where the student's features are brought to the teacher's
            width; maps are brought to one size first.
        measure: makes figures worth logging of the same pairs.
        vectors: whether maps are averaged over their places.
        resize: whether maps are brought to one size before an adapter.
    """

    def __init__(
        self,
        pairing: Pairing,
        compare: Callable[[Pairs], LossTerms],
        adapters: Sequence[nn.Module] = (),
        *,
        measure: Callable[[Pairs], Mapping[str, Tensor]] = lambda _: {},
        vectors: bool = False,
        resize: bool = True,
    ) -> None:
        super().__init__()
        self.features, self.notes = pairing.features, pairing.notes
        self.adapters = nn.ModuleList(adapters)
        self.read = pairing.vectors if vectors else pairing.maps
        self._compare, self._measure = compare, measure
        self.metrics: Mapping[str, Tensor] = {}
        self._resize = resize and not vectors

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        pairs = self.read(student, teacher)
        for i, adapter in enumerate(self.adapters):
            ours, theirs = pairs[i]
            if self._resize:
                ours, theirs = to_smaller(ours, theirs)
            pairs[i] = adapter(ours), theirs
        with torch.no_grad():
            self.metrics = self._measure(pairs)
        return self._compare(pairs)


def pair_layers(
    layers: Layers,
    student: nn.Module,
    teacher: nn.Module | None,
    example: Batch,
    *,
    before_activation: bool = False,
) -> Pairing:
    """Return the pairs that `layers` asks for; both networks stay as they are.

    Args:
        before_activation: stages are compared by what enters their activation, where a tap sees
            that, and not by what leaves it.

    Raises:
        ValueError: there is no teacher, or a network has nothing of the kind.
    """
    if teacher is None:
        raise ValueError("features are compared with a teacher's, but there is none; use distill")
    views: Mapping[str, Tensor] = example.views
    if layers.student:
        ours = find_layers(student, views["student"], layers.student)
        theirs = find_layers(teacher, views["teacher"], layers.teacher)
        named = zip(ours, theirs, strict=True)
        return Pairing(pairs=tuple(Pair(student=a, teacher=b) for a, b in named))
    mine = find_stages(student, views["student"])
    taught = find_stages(teacher, views["teacher"])
    pairing = _found(layers.find, mine, taught)
    side = Layer.before_activation if before_activation else Layer.after_activation
    pairs = (Pair(student=side(pair.student), teacher=side(pair.teacher)) for pair in pairing.pairs)
    return replace(pairing, pairs=tuple(pairs))


def _found(find: Which, student: Stages, teacher: Stages) -> Pairing:
    if find == "features":
        return Pairing(pairs=(Pair(student=student.features, teacher=teacher.features),))
    chosen = pair_stages(student.ends, teacher.ends)
    if find == "last":
        chosen = chosen[-1:]
    elif find == "middle":
        chosen = chosen[(len(chosen) - 1) // 2 :][:1]
    elif find == "inner":
        chosen = chosen[:-1]
    if not chosen:
        raise ValueError(
            "student and teacher share one stage only; ask for it with find='last', or name layers"
        )
    left_out: tuple[str, ...] = ()
    if find == "stages":
        used = {layer.name for pair in chosen for layer in (pair.student, pair.teacher)}
        sides = (("the student's", student.ends), ("the teacher's", teacher.ends))
        left_out = tuple(
            f"{whose} {_told(end)}" for whose, ends in sides for end in ends if end.name not in used
        )
    return Pairing(pairs=chosen, left_out=left_out)


def pair_stages(student: Sequence[Layer], teacher: Sequence[Layer]) -> tuple[Pair, ...]:
    """Return the pairs of stages, from the input on: the last with the last, others by cost."""
    swapped = len(student) > len(teacher)
    few, many = (teacher, student) if swapped else (student, teacher)

    @cache
    def best(i: int, j: int) -> tuple[float, tuple[int, ...]]:
        """Cost and partners of the first i of the few among the first j of the many."""
        if i == 0:
            return 0.0, ()
        cost, partners = best(i - 1, j - 1)
        taken = cost + _cost(few[i - 1], many[j - 1]), (*partners, j - 1)
        return taken if i == j else min(taken, best(i, j - 1))

    partners = (*best(len(few) - 1, len(many) - 1)[1], len(many) - 1)
    found = [(few[i], many[j]) for i, j in enumerate(partners)]
    return tuple(
        Pair(student=b, teacher=a) if swapped else Pair(student=a, teacher=b) for a, b in found
    )


def _cost(one: Layer, other: Layer) -> float:
    sides = (math.sqrt(layer.shape[1] * layer.shape[2]) for layer in (one, other))
    return abs(math.log2(next(sides) / next(sides))) + abs(one.depth - other.depth)


def _told(layer: Layer) -> str:
    shape = " x ".join(str(side) for side in layer.shape if layer.shape[1:] != (1, 1)) or str(
        layer.shape[0]
    )
    applied = ", activated" if layer.applied is not None else ""
    return f"{layer.name} ({shape}{', tokens' if layer.tokens else ''}{applied})"
