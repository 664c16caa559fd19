"""The report card of a transfer set: measurements, verdict and rank, as JSON and as text.

    fail   a class is uncovered, or the rarest class' share or the class entropy is too low
    warn   pairs of classes are missing, the teacher's BatchNorm sees something else than it knows,
           or the images looked at are few for so many classes
    ok     otherwise

The verdict is for the stream as fed to the student. It depends on the measurements only, not on the
rank among other sets or a prediction.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from doublure.audits.calibration import NotCalibrated, Prediction
from doublure.audits.ranking import Standing, places, standing
from doublure.audits.transfer_tally import Estimate, StreamDiagnostics
from doublure.core.findings import Finding
from doublure.core.protocols import InputContract

Verdict = Literal["ok", "warn", "fail"]
# Words for values outside of their range.
Side = Literal["low", "high"]

_NAME, _COLUMN, _LINE = 24, 18, 80
# Explanations of the decisive values.
_MEANINGS = {
    "uncovered": ("Missing classes", "those that hardly an image shows"),
    "class_entropy": ("Class balance", "how evenly the teacher names its classes; 1 is evenly"),
    "min_class_share": ("Rarest class", "its images, as a share of an even number"),
    "pair_coverage": ("Boundaries seen", "share of the pairs of classes that images lie between"),
    "bn_distance": (
        "Distance from the data",
        "from what the teacher's BatchNorm layers remember of them",
    ),
    "near_boundary": ("Near a boundary", "share of images at which the teacher nearly wavers"),
    "boundary_success": ("Attacks that succeed", "share that reach another class"),
    "duplicates": ("Duplicates", "share of images that the teacher cannot tell apart"),
}


@dataclass(frozen=True, kw_only=True)
class VerdictLimits:
    """Limits between verdicts, and ranges of good values.

    Args:
        class_entropy: less is "fail".
        min_class_share: less is "fail".
        uncovered: more is "fail".
        pair_coverage: less is "warn".
        bn_distance: more is "warn".
        images_per_class: fewer are "warn": a class may be missing by chance.
        good: range of good values.
    """

    class_entropy: float = 0.5
    min_class_share: float = 0.05
    uncovered: int = 0
    pair_coverage: float = 0.5
    bn_distance: float = 1.0
    images_per_class: int = 20
    good: Mapping[str, tuple[float | None, float | None]] = field(
        default_factory=lambda: {
            "class_entropy": (0.9, None),
            "min_class_share": (0.3, None),
            "uncovered": (None, 0),
            "pair_coverage": (0.7, None),
            "near_boundary": (0.1, 0.4),
            "boundary_success": (0.95, None),
            "feature_coverage": (0.7, None),
            "duplicates": (None, 0.02),
            "teacher_entropy_tau": (0.5, 0.99),
        }
    )


def out_of_range(
    raw: StreamDiagnostics, shown: StreamDiagnostics, limits: VerdictLimits
) -> dict[str, tuple[float, Side]]:
    """Return the values outside of their good range, with the side."""
    found: dict[str, tuple[float, Side]] = {}
    for name, (low, high) in limits.good.items():
        # Attacked images are repeated on purpose; repetitions by the source are not.
        value = (raw if name == "duplicates" else shown).value(name)
        if value is not None and low is not None and value < low:
            found[name] = (value, "low")
        elif value is not None and high is not None and value > high:
            found[name] = (value, "high")
    return found


def judge(stream: StreamDiagnostics, limits: VerdictLimits) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict on a stream and its reasons."""
    classes = len(stream.histogram)
    value = {name: estimate.value for name, estimate in stream.measurements.items()}
    failed, warned = [], []
    if stream.count < limits.images_per_class * classes:
        # Too few images do not replace other reasons: else an additional empty class could turn
        # "fail" into "warn".
        warned.append(
            f"{stream.count} images are too few to judge {classes} classes, and what is missing "
            f"may be chance; {50 * classes} would do"
        )
    if value["uncovered"] > limits.uncovered:
        failed.append(f"{value['uncovered']:.0f} of {classes} classes have hardly an image")
    if value["min_class_share"] < limits.min_class_share:
        failed.append(
            f"min_class_share {value['min_class_share']:.3f} is below {limits.min_class_share:g}: "
            "the student will not learn the rarest class"
        )
    if value["class_entropy"] < limits.class_entropy:
        failed.append(
            f"class_entropy {value['class_entropy']:.2f} is below {limits.class_entropy:g}: "
            "few classes make up the set"
        )
    if value["pair_coverage"] < limits.pair_coverage:
        warned.append(
            f"pair_coverage {value['pair_coverage']:.2f} is below {limits.pair_coverage:g}: "
            "boundaries between classes are missing"
        )
    if value.get("bn_distance", 0.0) > limits.bn_distance:
        warned.append(
            f"bn_distance {value['bn_distance']:.2f} is above {limits.bn_distance:g}: the "
            "teacher's features are far from those it was trained on"
        )
    verdict: Verdict = "fail" if failed else "warn" if warned else "ok"
    return verdict, (*failed, *warned)


@dataclass(frozen=True, kw_only=True)
class TransferSetCard:
    """Assessment of a transfer set before any training.

    Args:
        teacher: the REF of the teacher; "" for one built in Python.
        temperature: temperature of the soft targets in the values with tau.
        wrappers: wrappers around the source, innermost first.
        raw: the source's own images.
        fed: the stream as fed to the student; None without wrappers.
        notes: further remarks for the reader.
    """

    name: str
    teacher: str
    contract: InputContract
    count: int
    seed: int
    temperature: float
    wrappers: tuple[str, ...]
    raw: StreamDiagnostics
    fed: StreamDiagnostics | None
    verdict: Verdict
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    prediction: Prediction | NotCalibrated
    limits: VerdictLimits

    @property
    def shown(self) -> StreamDiagnostics:
        """The stream as fed to the student."""
        return self.raw if self.fed is None else self.fed

    @property
    def standing(self) -> Standing:
        """The value for the set's rank."""
        return standing(self.shown.measurements)

    @property
    def summary(self) -> str:
        """The card in one sentence."""
        return f"ranks by {self.standing}; {self._predicted}"

    @property
    def _predicted(self) -> str:
        if isinstance(self.prediction, NotCalibrated):
            return f"no accuracy is predicted: not calibrated here ({self.prediction.reason})"
        return (
            f"predicted {self.prediction.ratio:.2f} of the accuracy that the teacher's own images "
            f"give (90 %: {self.prediction.low:.2f} to {self.prediction.high:.2f})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the whole card as plain values."""
        predicted = isinstance(self.prediction, Prediction)
        return {
            "name": self.name,
            "teacher": self.teacher,
            "classes": self.contract.classes,
            "size": list(self.contract.size),
            "count": self.count,
            "seed": self.seed,
            "temperature": self.temperature,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "out_of_range": self._sides(),
            "ranked_by": asdict(self.standing),
            "predicted": asdict(self.prediction) if predicted else None,
            "not_calibrated": None if predicted else asdict(self.prediction)["reason"],
            "wrappers": list(self.wrappers),
            "raw": _stream_json(self.raw),
            "fed": None if self.fed is None else _stream_json(self.fed),
        }

    def to_finding(self) -> Finding:
        """Return the card as a finding for the report of a run."""
        streams = {"raw": self.raw, "as fed": self.shown}
        measurements: dict[str, Any] = {
            name: {key: estimate.value for key, estimate in stream.measurements.items()}
            for name, stream in streams.items()
            if name == "as fed" or self.fed is not None
        }
        predicted = isinstance(self.prediction, Prediction)
        if predicted:
            measurements["predicted"] = asdict(self.prediction)
        return Finding(
            name=f"transfer set {self.name}",
            verdict=self.verdict,
            summary="; ".join([*self.reasons, self.summary]),
            tag="predicted" if predicted else "proxy",
            measurements=measurements,
            meanings={
                name: (*words, (self._good(name).replace("<=", "≤") or "low") + self._mark(name))
                for name, words in _MEANINGS.items()
                if name in self.shown.measurements
            },
        )

    def text(self) -> str:
        """Return the card for a reader, in lines of at most 80 characters."""
        lines = [
            f"{self.name}  {self.verdict.upper()}",
            f"{self.count:,} images, seed {self.seed}; {self.contract.classes} classes"
            + (f"; teacher {self.teacher}" if self.teacher else ""),
            self.summary,
            "",
            _row("± half of 90 %", *(["raw", "as fed"] if self.fed else ["images"]), "good"),
        ]
        streams = [self.raw] if self.fed is None else [self.raw, self.fed]
        names = dict.fromkeys(name for stream in streams for name in stream.measurements)
        for name in names:
            cells = [_cell(stream.measurements.get(name)) for stream in streams]
            lines.append(_row(name, *cells, self._good(name) + self._mark(name)))
        lines += [_row(name, *[_list(pick(s)) for s in streams]) for name, pick in _LISTS.items()]
        if self.wrappers:
            lines.append(f"as fed: {', then '.join(self.wrappers)}")
        told = [f"{self.verdict}: {reason}" for reason in self.reasons]
        told += [f"note: {note}" for note in self.notes]
        told += [f"left out: {name}: {why}" for name, why in self.shown.missing.items()]
        return "\n".join(part for line in [*lines, *told] for part in _wrapped(line))

    def _sides(self) -> dict[str, Side]:
        return {
            name: side
            for name, (_, side) in out_of_range(self.raw, self.shown, self.limits).items()
        }

    def _mark(self, name: str) -> str:
        side = self._sides().get(name)
        return "" if side is None else f"  too {side}"

    def _good(self, name: str) -> str:
        low, high = self.limits.good.get(name, (None, None))
        if low is None or high is None:
            sign = "" if low is high else "> " if high is None else "<= "
            return sign + ("" if low is high else f"{low if high is None else high:g}")
        return f"{low:g} to {high:g}"


def ranked_text(cards: Sequence[TransferSetCard]) -> str:
    """Return the order of several cards of one teacher, the best first, for a reader."""
    standings = [card.standing for card in cards]
    by = standings[0]
    lines = [
        f"ranked by {by.figure} as fed, {by.better} is better; sets that cannot be told apart "
        "share a place"
    ]
    ordered = sorted(zip(places(standings), cards, strict=True), key=_order)
    for place, card in ordered:
        cell = _cell(card.shown.measurements[by.figure])
        lines.append(_row(f"{place}. {card.name}", cell, card.verdict))
    return "\n".join(part for line in lines for part in _wrapped(line))


def _order(placed: tuple[int, TransferSetCard]) -> tuple[int, float]:
    place, card = placed
    sign = 1 if card.standing.better == "lower" else -1
    return place, sign * card.standing.value


_LISTS: Mapping[str, Callable[[StreamDiagnostics], tuple[float, ...]]] = {
    "pixel mean": lambda stream: stream.mean,
    "pixel std": lambda stream: stream.std,
    "confidence, 1st decile": lambda stream: stream.deciles[1:2],
    "confidence, median": lambda stream: stream.deciles[5:6],
    "confidence, 9th decile": lambda stream: stream.deciles[9:10],
}


def _stream_json(stream: StreamDiagnostics) -> dict[str, Any]:
    return {
        **asdict(stream),
        "measurements": {name: asdict(estimate) for name, estimate in stream.measurements.items()},
    }


def _row(name: str, *cells: str) -> str:
    return (f"{name:<{_NAME}}" + "".join(f"{cell:<{_COLUMN}}" for cell in cells)).rstrip()


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    if estimate.low == estimate.high:
        return f"{estimate.value:.3g}"
    # The longer half: at the ends of a scale the interval is truncated on one side.
    reach = max(estimate.value - estimate.low, estimate.high - estimate.value)
    return f"{estimate.value:.3g} ± {reach:.1g}"


def _list(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.2f}" for value in values[:4])


def _wrapped(line: str) -> list[str]:
    if len(line) <= _LINE:
        return [line]
    return textwrap.wrap(line, _LINE, subsequent_indent="  ")
