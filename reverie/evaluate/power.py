"""Power of a study: the smallest difference that a number of seeds can decide, and the number of seeds that a difference needs.

Eighty per cent power: were the true difference so far from the bound of its claim, four of five such studies would decide it.
The verdict is that of ``claims.py``: an interval whose half is the root of the summed squares of the half t-interval over
seeds and the half normal interval over photos. Over seeds alone this is the paired t-test, whose power is the noncentral t
distribution's (J. Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2); with photos the spread that
is estimated from seeds is integrated out instead, over its chi-squared distribution. As in every such forecast the spread is taken to be
the measured one, and a spread over three seeds is itself known within a factor of about six up and two down.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

LEVEL = 0.05  # two-sided: 1 - that of the interval
POWER = 0.8
MIN_SEEDS = 2  # below, there is no interval
MAX_SEEDS = 100_000  # more is as good as never
SHARES = (np.arange(4000) + 0.5) / 4000  # of chi-squared, at which the estimated spread is looked at


def power(distance: float, spread: float, seeds: int, photos: float = 0.0, level: float = LEVEL) -> float:
    """Chance that the interval of a mean ``distance`` above a bound lies above it.

    Args:
        spread: standard deviation of the difference over seeds.
        photos: standard error of the difference over other test photos; that of all seeds together, so more seeds leave it.
        level: two-sided, of the interval: 0.05 for 95 %.
    """
    if seeds < MIN_SEEDS:
        return 0.0
    free = seeds - 1
    over_seeds = spread / math.sqrt(seeds)
    half = np.hypot(stats.t.isf(level / 2, free) * over_seeds * _estimates(free), stats.norm.isf(level / 2) * photos)
    error = math.hypot(over_seeds, photos)
    if not error:
        return float(distance > 0)
    return float(stats.norm.cdf((distance - half) / error).mean())


@functools.lru_cache(maxsize=256)
def _estimates(free: int) -> npt.NDArray[np.float64]:
    """The estimated spread as a multiple of the true one, at equal steps of its distribution."""
    found: npt.NDArray[np.float64] = np.sqrt(stats.chi2.ppf(SHARES, free) / free)
    return found


def detectable(
    spread: float, seeds: int, photos: float = 0.0, level: float = LEVEL, wanted: float = POWER
) -> float | None:
    """The smallest distance from the bound that is seen with the power wanted; None below two seeds."""
    if seeds < MIN_SEEDS:
        return None
    high = math.hypot(spread, photos)
    if not high:
        return 0.0
    while power(high, spread, seeds, photos, level) < wanted:
        high *= 2
    return float(optimize.brentq(lambda far: power(far, spread, seeds, photos, level) - wanted, 0.0, high, rtol=1e-6))


def seeds_needed(
    distance: float, spread: float, photos: float = 0.0, level: float = LEVEL, wanted: float = POWER
) -> int | None:
    """The fewest seeds that see this distance with the power wanted; None where no number would, for want of photos."""
    if power(distance, spread, MAX_SEEDS, photos, level) < wanted:
        return None
    low, high = MIN_SEEDS - 1, MIN_SEEDS  # too few, and perhaps enough
    while power(distance, spread, high, photos, level) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(distance, spread, middle, photos, level) >= wanted else (middle, high)
    return high
