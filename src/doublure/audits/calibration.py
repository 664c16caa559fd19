"""Calibration: prediction of student accuracy from a transfer set's diagnostics.

    ratio = clip(b + sum_j w_j (t_j(x_j) - m_j) / s_j, 0, 1),    w_j >= 0

where x_j is a diagnostic of the stream as fed to the student, t_j is the identity or minus the
logarithm, so that more is better in every term, and m_j, s_j come from the sets measured for
`calibration.json`, never from the sets to predict. The ratio is the student's accuracy over that of
the same student trained equally long on the teacher's own images; if those give the teacher's
accuracy, it is the student's accuracy over the teacher's.

The interval has the width of the errors on held-out tasks. A prediction is given only if that error
is small (`WIDEST`), for the same number of images as in the measurements, and inside of the
measured range. Otherwise there is no prediction, with a reason.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Literal, get_args

import numpy as np

from doublure.core.checks import one_of
from doublure.core.protocols import InputContract

Transform = Literal["identity", "minus_log"]

# Tolerance beyond the ends of the measured range, as a share of it.
_SLACK = 0.25
_SMALLEST = 1e-6
_LEVEL = 0.9
# Half the width of the widest useful interval.
WIDEST = 0.15

_TRANSFORMS: Mapping[Transform, Callable[[float], float]] = {
    "identity": lambda x: x,
    "minus_log": lambda x: -math.log(max(x, _SMALLEST)),
}


@dataclass(frozen=True, kw_only=True)
class Term:
    """One diagnostic of the prediction.

    Args:
        mean: mean of the transformed diagnostic, over the measured sets.
        std: standard deviation likewise.
        weight: change of the ratio per standard deviation.
        low: smallest measured value of the transformed diagnostic.
        high: largest measured value.
    """

    name: str
    transform: Transform
    mean: float
    std: float
    weight: float
    low: float
    high: float

    def __post_init__(self) -> None:
        one_of("transform", self.transform, get_args(Transform))

    def transformed(self, value: float) -> float:
        """Return the transformed value, for which more is better."""
        return _TRANSFORMS[self.transform](value)

    def knows(self, value: float) -> bool:
        """Return whether sets like this one were measured."""
        reach = _SLACK * (self.high - self.low)
        return self.low - reach <= self.transformed(value) <= self.high + reach

    def gain(self, value: float) -> float:
        """Return the contribution of the value to the ratio."""
        return self.weight * (self.transformed(value) - self.mean) / self.std


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Student accuracy relative to the teacher's own images, with a 90 % interval."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class NotCalibrated:
    """The reason for no prediction."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The constants of the prediction, and their range of validity.

    Args:
        intercept: ratio of a set with the mean of each diagnostic.
        error: error of predictions on held-out tasks; nine in ten were closer.
        classes: fewest and most classes measured.
        side: smallest and largest side of the images measured, in pixels.
        count: number of images of each set.
        sets: number of measured transfer sets.
        tasks: description of the measurements.
    """

    terms: tuple[Term, ...]
    intercept: float
    error: float
    classes: tuple[int, int]
    side: tuple[int, int]
    count: int
    sets: int
    tasks: tuple[str, ...]

    def predict(
        self, values: Mapping[str, float], contract: InputContract, count: int
    ) -> Prediction | NotCalibrated:
        """Return the predicted ratio of a set with these diagnostics.

        Args:
            count: number of images behind the diagnostics.
        """
        reason = self._outside(values, contract, count)
        if reason is not None:
            return NotCalibrated(reason=reason)
        ratio = self.ratio(values)
        return Prediction(
            ratio=ratio, low=max(0.0, ratio - self.error), high=min(1.0, ratio + self.error)
        )

    def ratio(self, values: Mapping[str, float]) -> float:
        """Return the predicted ratio, for all values."""
        return min(max(self.linear(values), 0.0), 1.0)

    def linear(self, values: Mapping[str, float]) -> float:
        """Return the ratio before clipping to [0, 1], for rankings."""
        return self.intercept + sum(term.gain(values[term.name]) for term in self.terms)

    def _outside(
        self, values: Mapping[str, float], contract: InputContract, count: int
    ) -> str | None:
        if not self.error <= WIDEST:
            return (
                f"predictions for a task that was not measured were off by {self.error:.2f}; "
                f"none is given above {WIDEST:g}"
            )
        if count != self.count:
            return f"{count:,} images were scored; measured with {self.count:,}"
        fewest, most = self.classes
        if not fewest <= contract.classes <= most:
            known = str(fewest) if fewest == most else f"{fewest} to {most}"
            return f"{contract.classes} classes; measured with {known}"
        if not (self.side[0] <= min(contract.size) and max(contract.size) <= self.side[1]):
            height, width = contract.size
            return f"{height} x {width} pixels; measured from {self.side[0]} to {self.side[1]}"
        for term in self.terms:
            value = values.get(term.name)
            if value is None:
                return f"{term.name} is missing"
            if not term.knows(value):
                return f"{term.name} {value:.3g} lies far from all that were measured"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the constants as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "Calibration":
        """Return the calibration from the values of `to_json`."""
        terms = tuple(Term(**term) for term in table["terms"])
        pairs = {name: tuple(table[name]) for name in ("classes", "side", "tasks")}
        return cls(**{**table, **pairs, "terms": terms})


@functools.cache
def committed() -> Calibration | None:
    """Return the calibration of the package; None if there is none."""
    file = resources.files("doublure.audits") / "calibration.json"
    if not file.is_file():
        return None
    return Calibration.from_json(json.loads(file.read_text(encoding="utf-8")))


def fit_calibration(
    sets: Sequence[Mapping[str, float]],
    ratios: Sequence[float],
    transforms: Mapping[str, Transform],
    *,
    ridge: float,
    error: float,
    classes: tuple[int, int],
    side: tuple[int, int],
    count: int,
    tasks: tuple[str, ...],
) -> Calibration:
    """Return the calibration of sets with known ratios: ridge regression, weights not negative.

    Args:
        sets: the diagnostics of each set.
        transforms: the diagnostics to predict from.
        ridge: the weight of the penalty, in images of a set with no information.
    """
    from scipy.optimize import nnls  # type: ignore[attr-defined]  # not in __all__; only fits wait

    values = np.array([[_TRANSFORMS[t](row[n]) for n, t in transforms.items()] for row in sets])
    mean, std = values.mean(0), values.std(0)
    if not (std > 0).all():
        flat = [name for name, spread in zip(transforms, std, strict=True) if not spread > 0]
        raise ValueError(f"no set differs from another in {', '.join(flat)}; leave it out")
    scaled, target = (values - mean) / std, np.array(ratios)
    # The penalty, as additional rows with target zero; the columns are centred, so that the
    # intercept is the mean ratio for all weights.
    penalty = math.sqrt(ridge) * np.eye(len(transforms))
    centred = np.concatenate([target - target.mean(), np.zeros(len(transforms))])
    weights, _ = nnls(np.concatenate([scaled, penalty]), centred)
    terms = tuple(
        Term(
            name=name,
            transform=transform,
            mean=float(mean[j]),
            std=float(std[j]),
            weight=float(weights[j]),
            low=float(values[:, j].min()),
            high=float(values[:, j].max()),
        )
        for j, (name, transform) in enumerate(transforms.items())
    )
    return Calibration(
        terms=terms,
        intercept=float(target.mean()),
        error=error,
        classes=classes,
        side=side,
        count=count,
        sets=len(sets),
        tasks=tasks,
    )


def error_of(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return the 90 % quantile of the errors."""
    errors = np.abs(np.array(predicted) - np.array(measured))
    return float(np.quantile(errors, _LEVEL))
