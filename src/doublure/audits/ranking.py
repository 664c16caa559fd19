"""Ranking of transfer sets for a teacher, by one value.

    bn_distance     lower is better
    pair_coverage   higher is better, for a teacher that has no BatchNorm

Both are for the stream as fed to the student. Nothing is fitted: the value alone gives the order.
Sets with overlapping 90 % intervals share a rank. The order does not predict the accuracy of a
student.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from doublure.audits.transfer_tally import Estimate

Direction = Literal["lower", "higher"]

# The first available one is used.
RANKED_BY: Mapping[str, Direction] = {"bn_distance": "lower", "pair_coverage": "higher"}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The value for the rank of a transfer set.

    Args:
        better: the good direction of the value.
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
    """Return the ranking value of a set with these measurements."""
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
    """Return the rank of each set, from 1: one plus the number of better sets."""
    return [1 + sum(other.before(one) for other in standings) for one in standings]


def goodness(measurements: Mapping[str, float]) -> float:
    """Return a number that is larger for a better set."""
    found = standing({name: Estimate(value=v, low=v, high=v) for name, v in measurements.items()})
    return found.value if found.better == "higher" else -found.value
