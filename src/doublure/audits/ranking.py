"""Ranking: which of several transfer sets will teach a student best, by one figure.

    bn_distance     lower is better
    pair_coverage   higher is better, for a teacher that has no BatchNorm

Both are of the stream as the student is fed it. Nothing is fitted: no constant stands between the
figure and the order. Sets whose 90 % intervals overlap share a place. The order says which set is
better, not how good a student will be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from doublure.audits.transfer_tally import Estimate

Direction = Literal["lower", "higher"]

# The first that is there.
RANKED_BY: Mapping[str, Direction] = {"bn_distance": "lower", "pair_coverage": "higher"}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The figure that a transfer set is ranked by.

    Args:
        better: which direction of the figure is.
    """

    figure: str
    better: Direction
    value: float
    low: float
    high: float

    def before(self, other: "Standing") -> bool:
        """Return whether this set ranks before another, beyond both intervals of 90 %."""
        if self.figure != other.figure:
            raise ValueError(
                f"a set ranked by {self.figure} cannot be held against one ranked by "
                f"{other.figure}; score both for the same teacher"
            )
        return self.high < other.low if self.better == "lower" else self.low > other.high

    def __str__(self) -> str:
        return f"{self.figure} {self.value:.3g}, {self.better} is better"


def standing(measurements: Mapping[str, Estimate]) -> Standing:
    """Return what a set with these figures is ranked by."""
    figure = next(name for name in RANKED_BY if name in measurements)
    found = measurements[figure]
    return Standing(
        figure=figure,
        better=RANKED_BY[figure],
        value=found.value,
        low=found.low,
        high=found.high,
    )


def places(standings: Sequence[Standing]) -> list[int]:
    """Return the place of each set, from 1: one more than the sets that rank before it."""
    return [1 + sum(other.before(one) for other in standings) for one in standings]


def goodness(measurements: Mapping[str, float]) -> float:
    """Return a number that is larger for a set that ranks before, from the figures' values."""
    found = standing({name: Estimate(value=v, low=v, high=v) for name, v in measurements.items()})
    return found.value if found.better == "higher" else -found.value
