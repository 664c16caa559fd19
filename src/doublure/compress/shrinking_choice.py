"""Which of several smaller files to use: the Pareto front, and one recommendation with its reason.

The quality of a file is its accuracy if that was measured, otherwise its mean agreement with the
teacher over the transfer sets. A file is on the front if no smaller file is at least as good.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from doublure.compress.shrinking_plan import Target


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file of a candidate.

    Args:
        path: relative to the output folder.
        macs: multiply-adds of one image.
        agreement: top-1 agreement with the teacher, for each transfer set.
        latency_ms: latency of one image, timed together with all other files; 0 means not measured.
    """

    candidate: str
    form: str
    path: str
    bytes: int
    parameters: int
    macs: int
    agreement: dict[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    correct: int | None = None
    count: int | None = None
    latency_ms: float = 0.0
    images_per_second: float = 0.0

    @property
    def name(self) -> str:
        """Candidate and form, in words."""
        of = "teacher" if self.candidate == "int8" else self.candidate
        return f"{of}, int8" if self.quantized else f"{of}, float32"

    @property
    def quantized(self) -> bool:
        """Whether the file computes in eight bits."""
        return self.form == "int8-onnx"

    @property
    def quality(self) -> float:
        """Accuracy if measured, otherwise the mean agreement."""
        return fmean(self.agreement.values()) if self.accuracy is None else self.accuracy


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The recommended file.

    Args:
        meets: whether it meets the target; if not, no file does.
        reason: one or two sentences.
    """

    candidate: str
    form: str
    path: str
    meets: bool
    reason: str


def takes(row: Row, target: Target, teacher: Row) -> float:
    """Return the size (or latency) of a file relative to the target's limit."""
    return target.size(row.bytes, row.latency_ms, teacher.bytes)


def front(rows: Sequence[Row], target: Target, teacher: Row) -> list[Row]:
    """Return the rows on the front of size (or latency) and quality, the smallest first."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (takes(row, target, teacher), -row.quality)):
        if not best or row.quality > best[-1].quality:
            best.append(row)
    return best


def recommend(rows: Sequence[Row], target: Target, teacher: Row) -> Recommendation:
    """Return the best file that meets the target, or the smallest if none does.

    Raises:
        ValueError: there is no file.
    """
    if not rows:
        raise ValueError("no candidate was produced: there is nothing to recommend")
    meeting = [row for row in rows if takes(row, target, teacher) <= 1]
    if meeting:
        chosen = max(meeting, key=lambda row: (row.quality, -takes(row, target, teacher)))
        limit = _describe_target(target)
        which = f"the only file of at most {limit}"
        if len(meeting) > 1:
            best = "agreement" if chosen.accuracy is None else "accuracy"
            which = f"the highest {best} of the {len(meeting)} files of at most {limit}"
        reason = f"{chosen.name}: {_size(chosen, target, teacher)}, {which}: {_quality(chosen)}."
    else:
        chosen = min(rows, key=lambda row: (takes(row, target, teacher), -row.quality))
        reason = (
            f"No file meets the target of {_describe_target(target)}. {chosen.name} is nearest, "
            f"with {_size(chosen, target, teacher)}: {_quality(chosen)}."
        )
    return Recommendation(
        candidate=chosen.candidate,
        form=chosen.form,
        path=chosen.path,
        meets=bool(meeting),
        reason=reason,
    )


def _describe_target(target: Target) -> str:
    if target.unit == "share":
        return f"{target.value:g} of the teacher's bytes"
    return target.text


def _size(row: Row, target: Target, teacher: Row) -> str:
    if target.unit == "milliseconds":
        return f"{row.latency_ms:.3g} ms per image"
    return f"{row.bytes / teacher.bytes:.2f} of the teacher's bytes"


def _quality(row: Row) -> str:
    if row.accuracy is None:
        sets = ", ".join(f"{100 * share:.1f} % on {name}" for name, share in row.agreement.items())
        return f"it agrees with the teacher on {sets}"
    return f"accuracy {100 * row.accuracy:.1f} % on {row.count:,} labelled images"
