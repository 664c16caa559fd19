"""What `shrink` tries: plan candidates for a teacher, a target and a time budget.

The candidates that train share the seconds in proportion to their weights. If a share would be less
than a candidate needs, the last one of the list is dropped, and the others share the time again.
The list is ordered: first the candidates expected to meet the target, the largest of them first;
then those expected to miss it, the smallest first.

The expected size of a candidate is the share of the teacher's parameters that it keeps; for a
pruned one (1 - share)^2, because inputs and outputs of a layer both get narrower; and 0.28 of that
in bytes as int8. The expectation only determines the order, and what is dropped: all sizes in the
result are measured.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["int8", "pruned", "shallower", "named", "both"]
Unit = Literal["share", "bytes", "milliseconds"]

SHARES = (0.3, 0.5, 0.7)
# Ratio of pruned filters for the candidate that is both shallower and pruned.
BOTH = 0.5
# Seconds; in less time not even an export and its check are possible.
LEAST_BUDGET = 30.0
# Minimum number of training steps of a candidate; the first 20 are for timing and are discarded.
FEWEST_STEPS = 80
# Share of the time for synthetic images, and limits of their number.
_IMAGE_SHARE, _FEWEST_IMAGES, _MOST_IMAGES = 0.3, 256, 20_000
# A student with other blocks than its teacher needs more training.
_WEIGHTS: Mapping[Kind, float] = {"pruned": 1.0, "shallower": 1.5, "named": 1.5, "both": 1.0}
# Seconds to trace and open; images through the teacher to rank filters and to repair layers; images
# of the held-out set after training.
_OPENING, _RANKING_IMAGES, _HELD_OUT = 10.0, 6 * 256, 2048
# An int8 file has a quarter of the bytes of a float32 file, and the scales.
_INT8 = 0.28
# Depths of the two shallower students, relative to the teacher's.
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
    """The maximum size or latency of a file.

    Args:
        unit: "share" is relative to the bytes of the teacher's float32 ONNX file, "milliseconds"
            is the latency of one image on this machine.
        text: the target as typed.
    """

    unit: Unit
    value: float
    text: str

    def size(self, num_bytes: float, milliseconds: float, whole: float) -> float:
        """Return the size (or latency) of a file relative to the target; above 1 is too large.

        Args:
            whole: bytes of the teacher's file.
        """
        if self.unit == "milliseconds":
            return milliseconds / self.value
        return num_bytes / (self.value * (whole if self.unit == "share" else 1.0))


def parse_target(text: str | float) -> Target:
    """Return the target of a text such as "0.3", "2MB" or "5ms"; sizes are powers of ten.

    Raises:
        ValueError: the text is not a target.
    """
    typed = str(text).strip()
    parts = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-zA-Z]*)", typed)
    unit, factor = _UNITS.get(parts[2].lower() if parts else "?", ("share", 0.0))
    value = float(parts[1]) * factor if parts else 0.0
    if not value > 0 or (unit == "share" and not value < 1):
        raise ValueError(
            f"target must be a share of the teacher's bytes below 1, a size or a latency, such as "
            f"0.3, 2MB or 5ms; got '{typed}'"
        )
    return Target(unit=unit, value=value, text=typed)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to a smaller network.

    Args:
        expected: parameters relative to the teacher's.
        seconds: time of the budget for this candidate.
        share: ratio of filters to prune.
        student: REF of the student to train.
        begins: name of the candidate that it starts from.
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
    """A candidate that is dropped, and why."""

    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds on this machine, measured with the teacher before the planning.

    Args:
        spent: seconds since the start.
        answer: forward pass of the teacher, for one image.
        image: synthesis of one image from the teacher's statistics.
        step: training step of a student as large as the teacher.
        export: export, check and measurement of one network.
    """

    spent: float
    answer: float
    image: float
    step: float
    export: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The candidates to produce, with the time for each.

    Args:
        reserved: seconds for the comparison at the end.
        images: number of synthetic images, produced first and shared by all candidates.
        image_seconds: seconds for these images.
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
    """Return the plan: candidates with their seconds, in the order of production.

    Args:
        known: all candidates that are possible for the teacher; `known_candidates`.
        whole: bytes of the teacher's float32 file.
        milliseconds: its latency.
        left_out: candidates that were dropped before.
        inverts: whether images can be synthesised from the teacher's statistics.

    Raises:
        ValueError: the budget is below 30 seconds, or already used up.
    """
    check_budget(budget)
    reserved = min(0.1 * budget, 10.0 + 4 * costs.export)
    left = budget - costs.spent - reserved
    free = [replace(item, seconds=costs.export) for item in known if item.kind == "int8"]
    left -= sum(item.seconds for item in free)
    if left < 0:
        raise ValueError(
            f"a budget of {budget:.0f}s is used up before any candidate: opening, exporting and "
            f"measuring the teacher took {costs.spent:.0f}s; raise --budget"
        )
    images = _image_count(costs, left) if inverts else 0
    image_seconds = images * costs.image
    learning = _by_expectation(
        [item for item in known if item.kind != "int8"], target, whole, milliseconds
    )
    kept, dropped = _drop_until_fits(learning, left - image_seconds, costs)
    if not kept:
        images, image_seconds = 0, 0.0
    return Plan(
        target=target,
        budget=budget,
        costs=costs,
        candidates=(*free, *kept),
        left_out=(*left_out, *dropped),
        reserved=reserved,
        images=images,
        image_seconds=image_seconds,
    )


def check_budget(budget: float) -> None:
    """Raise if the budget is below the minimum."""
    if budget < LEAST_BUDGET:
        raise ValueError(f"budget must be at least {LEAST_BUDGET:.0f}s, got {budget:g}s")


def known_candidates(
    siblings: Mapping[str, float], *, prunes: bool, student: tuple[str, float] | None = None
) -> list[Candidate]:
    """Return all candidates: int8, pruned, shallower, both, and a student that the user named.

    Args:
        siblings: shallower networks of the same family: share of the teacher's parameters by REF.
        prunes: whether the teacher has prunable filters.
        student: REF and share of the parameters of the user's student.
    """
    candidates = [Candidate(name="int8", kind="int8", expected=1.0)]
    if student is not None:
        name = named_after(student[0])
        candidates.append(
            Candidate(name=name, kind="named", expected=student[1], student=student[0])
        )
    for share in SHARES if prunes else ():
        name, expected = f"pruned-{100 * share:.0f}", (1 - share) ** 2
        candidates.append(Candidate(name=name, kind="pruned", expected=expected, share=share))
    smallest = min(siblings, key=lambda ref: siblings[ref], default=None)
    for reference, expected in siblings.items():
        name = named_after(reference)
        candidates.append(
            Candidate(name=name, kind="shallower", expected=expected, student=reference)
        )
    if smallest is not None and prunes:
        begins = named_after(smallest)
        candidates.append(
            Candidate(
                name=f"{begins}-pruned-{100 * BOTH:.0f}",
                kind="both",
                expected=siblings[smallest] * (1 - BOTH) ** 2,
                share=BOTH,
                begins=begins,
            )
        )
    return candidates


def named_after(reference: str) -> str:
    """Return a folder name for a REF: the part after the last slash or colon."""
    tail = re.split(r"[/:]", reference.rstrip("/"))[-1]
    return re.sub(r"[^\w.-]", "-", tail) or "student"


def seconds_for(plan: Plan, name: str, done: Mapping[str, float], spent: float) -> float:
    """Return the seconds for a candidate: its planned share of the time that remains.

    Args:
        done: finished candidates; only the keys are used.
        spent: seconds since the start.
    """
    ahead = [item for item in plan.candidates if item.name not in done]
    planned = sum(item.seconds for item in ahead)
    own = next(item.seconds for item in ahead if item.name == name)
    left = plan.budget - plan.reserved - spent
    return max(0.0, own * left / planned)


def least_seconds(costs: Costs) -> float:
    """Return the minimum number of seconds for a candidate that trains."""
    opened = _OPENING + costs.answer * _RANKING_IMAGES
    return opened + FEWEST_STEPS * costs.step + closing_seconds(costs)


def closing_seconds(costs: Costs) -> float:
    """Return the seconds after training: to compare, export and measure a candidate."""
    return 2 * _HELD_OUT * costs.answer + costs.export


def describe(plan: Plan) -> list[str]:
    """Return the plan as lines of text."""
    lines = [
        f"{plan.budget:.0f} s: {plan.costs.spent:.0f} to measure the teacher, "
        f"{plan.image_seconds:.0f} for {plan.images} images from its statistics, "
        f"{plan.reserved:.0f} to compare"
    ]
    lines += [f"  {item.name}: {item.seconds:.0f} s" for item in plan.candidates]
    return lines + [f"  without {item.name}: {item.why}" for item in plan.left_out]


def shallower_siblings(reference: str) -> tuple[str, ...]:
    """Return up to two REFs of the same family, with about 0.35 and 0.6 of the depth.

    For a hub only the architecture is used: no weights are downloaded for a student.
    """
    for pattern, form, depths in _FAMILIES:
        match = re.fullmatch(pattern, reference)
        if match is not None:
            own = int(match["depth"])
            smaller = [depth for depth in depths if depth < own]
            nearest = {
                min(smaller, key=lambda d: abs(d - part * own)) for part in _DEPTHS if smaller
            }
            fields = {key: value or "" for key, value in match.groupdict().items()}
            return tuple(form.format(**fields | {"depth": depth}) for depth in sorted(nearest))
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


def _by_expectation(
    known: Sequence[Candidate], target: Target, whole: float, milliseconds: float
) -> list[Candidate]:
    def expected_size(item: Candidate) -> float:
        return target.size(_INT8 * item.expected * whole, item.expected * milliseconds, whole)

    def key(item: Candidate) -> tuple[bool, bool, float]:
        misses = expected_size(item) > 1
        return item.kind != "named", misses, item.expected if misses else -item.expected

    return sorted(known, key=key)


def _drop_until_fits(
    learning: Sequence[Candidate], seconds: float, costs: Costs
) -> tuple[list[Candidate], list[LeftOut]]:
    """Return the candidates that fit into the time, with their seconds, and the dropped ones."""
    least = least_seconds(costs)
    kept, left_out = [*learning], list[LeftOut]()
    while kept:
        weight = sum(_WEIGHTS[item.kind] for item in kept)
        unit = seconds / weight
        if all(_WEIGHTS[item.kind] * unit >= least for item in kept):
            break
        dropped = kept.pop()
        left_out.append(LeftOut(name=dropped.name, why=_no_time(least)))
        for item in [item for item in kept if item.begins == dropped.name]:
            kept.remove(item)
            left_out.append(LeftOut(name=item.name, why=f"it would start from {dropped.name}"))
    kept = [replace(item, seconds=_WEIGHTS[item.kind] * unit) for item in kept]
    return _dependent_last(kept), left_out


def _no_time(least: float) -> str:
    return f"the budget has no {least:.0f}s for it, the minimum for a candidate on this machine"


def _dependent_last(kept: list[Candidate]) -> list[Candidate]:
    return [item for item in kept if item.begins is None] + [
        item for item in kept if item.begins is not None
    ]


def _image_count(costs: Costs, left: float) -> int:
    """Return the number of images to synthesise; 0 if there is no time for enough of them."""
    count = math.floor(_IMAGE_SHARE * left / costs.image)
    return 0 if count < _FEWEST_IMAGES else min(_MOST_IMAGES, count)
