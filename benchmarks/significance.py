"""Is one arm better than another over the same seeds? Student's t for pairs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from experiments import interval


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """What a paired test says.

    Args:
        t: statistic; 0 where all pairs are alike.
        p: of the one-sided test that the new arm is better; 1 where all pairs are alike.
        mean: of the differences, new less old.
        low: end of the mean's 95 % interval.
        high: the other end.
        note: what is to be said beside the numbers.
    """

    t: float
    p: float
    mean: float
    low: float
    high: float
    pairs: int
    note: str = ""


def paired_test(new: Sequence[float], old: Sequence[float]) -> PairedTest:
    """Return the one-sided paired t-test of "new is larger", with the mean difference.

    Raises:
        ValueError: fewer than two pairs, or arms of different lengths.
    """
    if len(new) != len(old) or len(new) < 2:
        raise ValueError(f"a paired test needs two pairs at least, got {len(new)} and {len(old)}")
    differences = [a - b for a, b in zip(new, old, strict=True)]
    mean = statistics.mean(differences)
    if statistics.pstdev(differences) == 0:
        # Without spread t is 0 / 0, or without a bound.
        alike = mean == 0
        return PairedTest(
            t=0.0 if alike else math.copysign(math.inf, mean),
            p=1.0 if mean <= 0 else 0.0,
            mean=mean,
            low=mean,
            high=mean,
            pairs=len(new),
            note="identical" if alike else "every pair differs by the same",
        )
    found = stats.ttest_rel(new, old, alternative="greater")
    low, high = interval(differences)
    return PairedTest(
        t=float(found.statistic),
        p=float(found.pvalue),
        mean=mean,
        low=low,
        high=high,
        pairs=len(new),
    )
