"""Which of several smaller files to take: the front, and one recommendation with its reason.

A file's quality is its accuracy where that was measured, else its mean agreement with the teacher
over the transfer sets. A file lies on the front if none of another size is both smaller and better.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from doublure.compress.shrinking_plan import Target


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file of a candidate.

    Args:
        path: in the folder of the whole.
        macs: multiply-adds of one image.
        agreement: share of images called as the teacher calls them, by transfer set.
        latency_ms: of one image, timed beside all others; 0 before it was.
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
        """Accuracy, or else the mean agreement."""
        return fmean(self.agreement.values()) if self.accuracy is None else self.accuracy


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The file to take.

    Args:
        meets: whether it meets the target; if not, no file does.
        reason: in one sentence or two.
    """

    candidate: str
    form: str
    path: str
    meets: bool
    reason: str


def takes(row: Row, target: Target, teacher: Row) -> float:
    """Return how much a file takes, as a share of what it may take."""
    return target.size(row.bytes, row.latency_ms, teacher.bytes)


def front(rows: Sequence[Row], target: Target, teacher: Row) -> list[Row]:
    """Return the rows on the front of size (or latency) and quality, the smallest first."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (takes(row, target, teacher), -row.quality)):
        if not best or row.quality > best[-1].quality:
            best.append(row)
    return best


def recommend(rows: Sequence[Row], target: Target, teacher: Row) -> Recommendation:
    """Return the best file that meets the target, or the nearest if none does.

    Raises:
        ValueError: there is no file.
    """
    if not rows:
        raise ValueError("no candidate was made: there is nothing to recommend")
    meeting = [row for row in rows if takes(row, target, teacher) <= 1]
    if meeting:
        chosen = max(meeting, key=lambda row: (row.quality, -takes(row, target, teacher)))
        which = f"the only file of at most {_told(target)}"
        if len(meeting) > 1:
            best = "agreement" if chosen.accuracy is None else "accuracy"
            which = f"the highest {best} of the {len(meeting)} files of at most {_told(target)}"
        reason = f"{chosen.name}: {_size(chosen, target, teacher)}, {which}: {_quality(chosen)}."
    else:
        chosen = min(rows, key=lambda row: (takes(row, target, teacher), -row.quality))
        reason = (
            f"No file meets the target of {_told(target)}. {chosen.name} is the nearest, with "
            f"{_size(chosen, target, teacher)}: {_quality(chosen)}."
        )
    return Recommendation(
        candidate=chosen.candidate,
        form=chosen.form,
        path=chosen.path,
        meets=bool(meeting),
        reason=reason,
    )


def _told(target: Target) -> str:
    if target.unit == "share":
        return f"{target.value:g} of the teacher's bytes"
    return target.text


def _size(row: Row, target: Target, teacher: Row) -> str:
    if target.unit == "milliseconds":
        return f"{row.latency_ms:.3g} ms an image"
    return f"{row.bytes / teacher.bytes:.2f} of the teacher's bytes"


def _quality(row: Row) -> str:
    if row.accuracy is None:
        sets = ", ".join(f"{100 * share:.1f} % on {name}" for name, share in row.agreement.items())
        return f"it answers as the teacher does on {sets}"
    return f"{100 * row.accuracy:.1f} % of {row.count:,} labelled images"
