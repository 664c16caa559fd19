"""Which layers of student and teacher are compared, with a log line for each pair.

The last stages of the two networks are a pair. The other stages are paired in order, with the
smallest sum over pairs of |log2(s_i / s_j)| + |d_i - d_j|: s is the side length of a map in pixels,
d the relative depth, the share of layers with weights up to there. Every stage of the network with
fewer stages has a partner; the remaining stages of the other network are not used.
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
    """Which layers are compared: named in pairs, or found automatically.

    Args:
        student: names of layers, "NAME:input" for the input of a layer; () finds them.
        teacher: the same number of the teacher's layers.
        find: "stages": all stage ends; "inner": all but the last; "middle": the middle one;
            "last": the last one; each after or before its activation, as the objective needs.
            "features": the input vector of the classifier.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    find: Which = "stages"

    def __post_init__(self) -> None:
        one_of("layers to find", self.find, get_args(Which))
        if len(self.student) != len(self.teacher):
            raise ValueError(
                f"layers are compared in pairs, but {len(self.student)} of the student and "
                f"{len(self.teacher)} of the teacher are named; name the same number, or none"
            )


STAGES, INNER, MIDDLE = Layers(), Layers(find="inner"), Layers(find="middle")
LAST, FEATURES = Layers(find="last"), Layers(find="features")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two layers to compare; `Layer.as_map` turns the features of each into a map."""

    student: Layer
    teacher: Layer


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The layers that an objective compares."""

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()

    @property
    def features(self) -> FeatureNames:
        """The layers whose features are recorded, for student and teacher."""
        return FeatureNames(
            student=tuple(dict.fromkeys(pair.student.name for pair in self.pairs)),
            teacher=tuple(dict.fromkeys(pair.teacher.name for pair in self.pairs)),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """The pairs as a table, one line per pair."""
        rows = [[_describe(pair.student), _describe(pair.teacher)] for pair in self.pairs]
        width = max(len(left) for left, _ in rows)
        lines = [f"layers: student {left:<{width}}  <- teacher {right}" for left, right in rows]
        return (*lines, *(f"layers: {name} is not used" for name in self.left_out))

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
        """Return the vectors of each pair, batch x channels: means over the positions of a map."""
        return [
            (
                pair.student.as_vector(student.features[pair.student.name]),
                pair.teacher.as_vector(teacher.features[pair.teacher.name]),
            )
            for pair in self.pairs
        ]


class PairedLoss(nn.Module):
    """A loss on paired layers.

    Args:
        compare: returns the loss terms of the pairs (student, teacher), in order from the input.
        adapters: one for each pair; maps the student's features to the teacher's width.
        measure: returns metrics of the same pairs, for the log.
        vectors: whether maps are averaged over their positions.
        resize: whether the two maps of a pair are brought to the same size before the adapter.
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
            student_map, teacher_map = pairs[i]
            if self._resize:
                student_map, teacher_map = to_smaller(student_map, teacher_map)
            pairs[i] = adapter(student_map), teacher_map
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
    """Return the pairs that `layers` specifies; neither network is changed.

    Args:
        before_activation: compare stages before their activation instead of after it, where a
            layer has the pre-activation as its input or output.

    Raises:
        ValueError: there is no teacher, or a network has no such layer.
    """
    if teacher is None:
        raise ValueError("features need a teacher to compare with, but there is none; use distill")
    views: Mapping[str, Tensor] = example.views
    if layers.student:
        student_layers = find_layers(student, views["student"], layers.student)
        teacher_layers = find_layers(teacher, views["teacher"], layers.teacher)
        named = zip(student_layers, teacher_layers, strict=True)
        return Pairing(pairs=tuple(Pair(student=a, teacher=b) for a, b in named))
    student_stages = find_stages(student, views["student"])
    teacher_stages = find_stages(teacher, views["teacher"])
    pairing = _select(layers.find, student_stages, teacher_stages)
    side = Layer.before_activation if before_activation else Layer.after_activation
    pairs = (Pair(student=side(pair.student), teacher=side(pair.teacher)) for pair in pairing.pairs)
    return replace(pairing, pairs=tuple(pairs))


def _select(find: Which, student: Stages, teacher: Stages) -> Pairing:
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
            "student and teacher have only one stage in common; select it with find='last', "
            "or name layers"
        )
    left_out: tuple[str, ...] = ()
    if find == "stages":
        used = {layer.name for pair in chosen for layer in (pair.student, pair.teacher)}
        sides = (("the student's", student.ends), ("the teacher's", teacher.ends))
        left_out = tuple(
            f"{whose} {_describe(end)}"
            for whose, ends in sides
            for end in ends
            if end.name not in used
        )
    return Pairing(pairs=chosen, left_out=left_out)


def pair_stages(student: Sequence[Layer], teacher: Sequence[Layer]) -> tuple[Pair, ...]:
    """Return the pairs of stages, in order from the input: the last two, the others by cost."""
    swapped = len(student) > len(teacher)
    few, many = (teacher, student) if swapped else (student, teacher)

    @cache
    def best(i: int, j: int) -> tuple[float, tuple[int, ...]]:
        """Return lowest cost and partners of the first i of `few` among the first j of `many`."""
        # Dynamic programming: stage i either takes stage j, or has a partner before j.
        if i == 0:
            return 0.0, ()
        cost, partners = best(i - 1, j - 1)
        taken = cost + _cost(few[i - 1], many[j - 1]), (*partners, j - 1)
        return taken if i == j else min(taken, best(i, j - 1))

    partners = (*best(len(few) - 1, len(many) - 1)[1], len(many) - 1)
    matches = [(few[i], many[j]) for i, j in enumerate(partners)]
    return tuple(
        Pair(student=b, teacher=a) if swapped else Pair(student=a, teacher=b) for a, b in matches
    )


def _cost(one: Layer, other: Layer) -> float:
    # The geometric mean of height and width.
    sides = (math.sqrt(layer.shape[1] * layer.shape[2]) for layer in (one, other))
    return abs(math.log2(next(sides) / next(sides))) + abs(one.depth - other.depth)


def _describe(layer: Layer) -> str:
    shape = " x ".join(str(side) for side in layer.shape if layer.shape[1:] != (1, 1)) or str(
        layer.shape[0]
    )
    applied = ", activated" if layer.applied is not None else ""
    return f"{layer.name} ({shape}{', tokens' if layer.tokens else ''}{applied})"
