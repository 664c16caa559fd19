"""What `shrink` tries: candidates from a teacher, a target and a budget; numbers and names only.

Every candidate that learns takes a share of the seconds by its weight. Where a share would be less
than what a candidate needs, the last of the list is left out, and the others share anew. The list
is in the order of hope: those expected to meet the target first, the largest of them at the front;
then those expected to miss it, the smallest first.

Expected is what a candidate keeps of the teacher's parameters, a pruned one (1 - share)^2, as both
sides of a layer get narrower, and 0.28 of that in bytes as int8. What is so ordered is measured
afterwards; nothing but the order, and what is left out, rests on it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["int8", "pruned", "shallower", "named", "both"]
Unit = Literal["share", "bytes", "milliseconds"]

SHARES = (0.3, 0.5, 0.7)
# Of the filters of the shallower student that loses both.
BOTH = 0.5
# Seconds; less does not even export and check a network.
LEAST_BUDGET = 30.0
# Steps below which a candidate would learn nothing; the first twenty are timed and thrown away.
FEWEST_STEPS = 80
# Of the time, what goes into images, and how many there are.
_IMAGE_SHARE, _FEWEST_IMAGES, _MOST_IMAGES = 0.3, 256, 20_000
# A student that begins with other blocks than its teacher's has more to learn.
_WEIGHTS: Mapping[Kind, float] = {"pruned": 1.0, "shallower": 1.5, "named": 1.5, "both": 1.0}
# Seconds to trace and open; passes of the teacher to judge filters and to repair layers, and those
# over held-out images when a run is done.
_OPENING, _JUDGED_BY, _HELD_OUT = 10.0, 6 * 256, 2048
# An int8 file is a quarter of the float32 one and some scales.
_INT8 = 0.28
# Of the teacher's depth, what two shallower students should have.
_DEPTHS = (0.35, 0.6)
_UNITS: Mapping[str, tuple[Unit, float]] = {
    "": ("share", 1.0),
    "b": ("bytes", 1.0),
    "kb": ("bytes", 1e3),
    "mb": ("bytes", 1e6),
    "gb": ("bytes", 1e9),
    "ms": ("milliseconds", 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a file may take at most.

    Args:
        unit: "share" is of the bytes of the teacher's float32 ONNX file, "milliseconds" the latency
            of one image on the machine that measures.
        text: as it was typed.
    """

    unit: Unit
    value: float
    text: str

    def size(self, num_bytes: float, milliseconds: float, whole: float) -> float:
        """Return how much a file takes, as a share of what it may take.

        Args:
            whole: bytes of the teacher's file.
        """
        if self.unit == "milliseconds":
            return milliseconds / self.value
        return num_bytes / (self.value * (whole if self.unit == "share" else 1.0))


def parse_target(text: str | float) -> Target:
    """Return the target of a text such as "0.3", "2MB" or "5ms"; sizes are powers of ten.

    Raises:
        ValueError: it is none.
    """
    typed = str(text).strip()
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-zA-Z]*)", typed)
    unit, factor = _UNITS.get(found[2].lower() if found else "?", ("share", 0.0))
    value = float(found[1]) * factor if found else 0.0
    if not value > 0 or (unit == "share" and not value < 1):
        raise ValueError(
            f"target must be a share of the teacher's bytes below 1, a size or a latency, as 0.3, "
            f"2MB or 5ms; got '{typed}'"
        )
    return Target(unit=unit, value=value, text=typed)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to a smaller network.

    Args:
        seconds: of the budget that it gets.
        expected: parameters, as a share of the teacher's.
        share: of the filters that go.
        student: REF of the student that learns.
        begins: the candidate that it begins with.
    """

    name: str
    kind: Kind
    expected: float
    seconds: float = 0.0
    share: float | None = None
    student: str | None = None
    begins: str | None = None


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A candidate that is not made, and why."""

    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds on this machine, measured on the teacher before anything is planned.

    Args:
        spent: since the start.
        answer: that the teacher takes to answer one image.
        image: to make an image of the teacher's statistics.
        step: of a training step, were the student as large as its teacher.
        export: to export, check and measure a network.
    """

    spent: float
    answer: float
    image: float
    step: float
    export: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is made, and what of the budget each candidate gets.

    Args:
        reserved: seconds for the comparison at the end.
        images: that are made first, for all candidates.
        image_seconds: that those take.
    """

    target: Target
    budget: float
    costs: Costs
    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]
    reserved: float
    images: int = 0
    image_seconds: float = 0.0


def plan_candidates(
    known: Sequence[Candidate],
    target: Target,
    budget: float,
    costs: Costs,
    *,
    whole: float,
    milliseconds: float,
    left_out: Sequence[LeftOut] = (),
    inverts: bool = False,
) -> Plan:
    """Return the plan: candidates with their seconds, in the order in which they are made.

    Args:
        known: all that the teacher allows; `known_candidates`.
        whole: bytes of the teacher's float32 file.
        milliseconds: its latency.
        left_out: what was left out before.
        inverts: images can be made of the teacher's own statistics.

    Raises:
        ValueError: the budget is below 30 seconds, or spent already.
    """
    check_budget(budget)
    reserved = min(0.1 * budget, 10.0 + 4 * costs.export)
    left = budget - costs.spent - reserved
    free = [replace(item, seconds=costs.export) for item in known if item.kind == "int8"]
    left -= sum(item.seconds for item in free)
    if left < 0:
        raise ValueError(
            f"a budget of {budget:.0f}s is spent before any candidate: opening, exporting and "
            f"measuring the teacher took {costs.spent:.0f}s; raise --budget"
        )
    images = _image_count(costs, left) if inverts else 0
    image_seconds = images * costs.image
    learning = _in_order_of_hope(
        [item for item in known if item.kind != "int8"], target, whole, milliseconds
    )
    kept, gone = _fitting(learning, left - image_seconds, costs)
    if not kept:
        images, image_seconds = 0, 0.0
    return Plan(
        target=target,
        budget=budget,
        costs=costs,
        candidates=(*free, *kept),
        left_out=(*left_out, *gone),
        reserved=reserved,
        images=images,
        image_seconds=image_seconds,
    )


def check_budget(budget: float) -> None:
    """Raise unless there is time for anything."""
    if budget < LEAST_BUDGET:
        raise ValueError(f"budget must be at least {LEAST_BUDGET:.0f}s, got {budget:g}s")


def known_candidates(
    siblings: Mapping[str, float], *, prunes: bool, student: tuple[str, float] | None = None
) -> list[Candidate]:
    """Return all candidates: int8, pruned, shallower, both, and a student that was named.

    Args:
        siblings: share of the teacher's parameters by REF, of its shallower relatives.
        prunes: filters can go.
        student: REF and share of the parameters.
    """
    made = [Candidate(name="int8", kind="int8", expected=1.0)]
    if student is not None:
        name = named_after(student[0])
        made.append(Candidate(name=name, kind="named", expected=student[1], student=student[0]))
    for share in SHARES if prunes else ():
        name, expected = f"pruned-{100 * share:.0f}", (1 - share) ** 2
        made.append(Candidate(name=name, kind="pruned", expected=expected, share=share))
    smallest = min(siblings, key=lambda ref: siblings[ref], default=None)
    for reference, expected in siblings.items():
        name = named_after(reference)
        made.append(Candidate(name=name, kind="shallower", expected=expected, student=reference))
    if smallest is not None and prunes:
        begins = named_after(smallest)
        made.append(
            Candidate(
                name=f"{begins}-pruned-{100 * BOTH:.0f}",
                kind="both",
                expected=siblings[smallest] * (1 - BOTH) ** 2,
                share=BOTH,
                begins=begins,
            )
        )
    return made


def named_after(reference: str) -> str:
    """Return a REF as the name of a folder: what stands behind the last slash or colon."""
    tail = re.split(r"[/:]", reference.rstrip("/"))[-1]
    return re.sub(r"[^\w.-]", "-", tail) or "student"


def seconds_for(plan: Plan, name: str, done: Mapping[str, float], spent: float) -> float:
    """Return the seconds that a candidate gets once others are done: what is left, by the plan.

    Args:
        done: candidates that are behind, with any value.
        spent: seconds since the start.
    """
    ahead = [item for item in plan.candidates if item.name not in done]
    planned = sum(item.seconds for item in ahead)
    own = next(item.seconds for item in ahead if item.name == name)
    left = plan.budget - plan.reserved - spent
    return max(0.0, own * left / planned)


def least_seconds(costs: Costs) -> float:
    """Return what a candidate that learns needs at least, in all."""
    opened = _OPENING + costs.answer * _JUDGED_BY
    return opened + FEWEST_STEPS * costs.step + closing_seconds(costs)


def closing_seconds(costs: Costs) -> float:
    """Return what a candidate takes when it has learned: it is compared, exported, measured."""
    return 2 * _HELD_OUT * costs.answer + costs.export


def describe(plan: Plan) -> list[str]:
    """Return the plan in lines for a person."""
    lines = [
        f"{plan.budget:.0f} s: {plan.costs.spent:.0f} to measure the teacher, "
        f"{plan.image_seconds:.0f} for {plan.images} images of its statistics, "
        f"{plan.reserved:.0f} to compare"
    ]
    lines += [f"  {item.name}: {item.seconds:.0f} s" for item in plan.candidates]
    return lines + [f"  without {item.name}: {item.why}" for item in plan.left_out]


def shallower_siblings(reference: str) -> tuple[str, ...]:
    """Return REFs of the same family with about a third and three fifths of the depth, or fewer.

    A hub's name stands for the architecture alone: nothing is downloaded for a student.
    """
    for pattern, form, depths in _FAMILIES:
        found = re.fullmatch(pattern, reference)
        if found is not None:
            own = int(found["depth"])
            smaller = [depth for depth in depths if depth < own]
            near = {min(smaller, key=lambda d: abs(d - part * own)) for part in _DEPTHS if smaller}
            parts = {key: value or "" for key, value in found.groupdict().items()}
            return tuple(form.format(**parts | {"depth": depth}) for depth in sorted(near))
    return ()


_CIFAR = (8, 14, 20, 32, 44, 56, 110)
_FAMILIES: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    (r"builtin/resnet(?P<depth>18|34)", "builtin/resnet{depth}", (18,)),
    (r"builtin/resnet(?P<depth>8|32)x4", "builtin/resnet{depth}x4", (8,)),
    (r"builtin/resnet(?P<depth>\d+)(?P<rest>(-[\d.]+)?)", "builtin/resnet{depth}{rest}", _CIFAR),
    (r"builtin/wrn(?P<depth>\d+)-(?P<width>\d+)", "builtin/wrn{depth}-{width}", (10, 16, 22, 28)),
    (r"builtin/vgg(?P<depth>\d+)", "builtin/vgg{depth}", (8, 11)),
    (r"(?P<hub>timm|torchvision)/resnet(?P<depth>34)(\..*)?", "{hub}/resnet{depth}", (18,)),
    (r"(?P<hub>timm|torchvision)/resnet(?P<depth>\d+)(\..*)?", "{hub}/resnet{depth}", (50, 101)),
    (
        r"(?P<hub>timm|torchvision)/vgg(?P<depth>\d+)(?P<norm>(_bn)?)(\..*)?",
        "{hub}/vgg{depth}{norm}",
        (11, 13, 16),
    ),
)


def _in_order_of_hope(
    known: Sequence[Candidate], target: Target, whole: float, milliseconds: float
) -> list[Candidate]:
    def taken(item: Candidate) -> float:
        return target.size(_INT8 * item.expected * whole, item.expected * milliseconds, whole)

    def key(item: Candidate) -> tuple[bool, bool, float]:
        misses = taken(item) > 1
        return item.kind != "named", misses, item.expected if misses else -item.expected

    return sorted(known, key=key)


def _fitting(
    learning: Sequence[Candidate], seconds: float, costs: Costs
) -> tuple[list[Candidate], list[LeftOut]]:
    """Return as many candidates as there is time for, with their seconds, and the others."""
    least = least_seconds(costs)
    kept, gone = [*learning], list[LeftOut]()
    while kept:
        weight = sum(_WEIGHTS[item.kind] for item in kept)
        unit = seconds / weight
        if all(_WEIGHTS[item.kind] * unit >= least for item in kept):
            break
        dropped = kept.pop()
        gone.append(LeftOut(name=dropped.name, why=_no_time(least)))
        for item in [item for item in kept if item.begins == dropped.name]:
            kept.remove(item)
            gone.append(LeftOut(name=item.name, why=f"it would begin as {dropped.name}"))
    kept = [replace(item, seconds=_WEIGHTS[item.kind] * unit) for item in kept]
    return _after_their_beginnings(kept), gone


def _no_time(least: float) -> str:
    return f"the budget has no {least:.0f}s for it, the least that a candidate needs here"


def _after_their_beginnings(kept: list[Candidate]) -> list[Candidate]:
    return [item for item in kept if item.begins is None] + [
        item for item in kept if item.begins is not None
    ]


def _image_count(costs: Costs, left: float) -> int:
    """Return how many images to make; none where they would be too few to learn from."""
    count = math.floor(_IMAGE_SHARE * left / costs.image)
    return 0 if count < _FEWEST_IMAGES else min(_MOST_IMAGES, count)
