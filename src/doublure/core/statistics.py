"""Statistics of counts: confidence intervals of shares, and agreement per item."""

import math
from statistics import NormalDist

from jaxtyping import Bool, Float
from torch import Tensor

from doublure.core.checks import positive


def wilson_interval(correct: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share of `correct` in `count`.

    Unlike the normal approximation it is inside of [0, 1] and valid near the ends (Wilson 1927).
    """
    positive("count", count)
    if not 0 <= correct <= count:
        raise ValueError(f"correct must lie in [0, {count}], got {correct}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = correct / count
    centre = share + z**2 / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    # At 0 and 1 the bound is exact, despite rounding.
    low = 0.0 if correct == 0 else (centre - reach) / scale
    high = 1.0 if correct == count else (centre + reach) / scale
    return low, high


def top1_equal(
    logits: Float[Tensor, "batch classes"], others: Float[Tensor, "batch other_classes"]
) -> Bool[Tensor, " batch"]:
    """Return whether two networks predict the same class; one may have more classes."""
    return logits.argmax(-1) == others.argmax(-1)
