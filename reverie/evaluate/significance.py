"""Paired differences between two arms, with intervals over seeds or over photos, which both arms share.

A claim "a beats b" holds when the interval of the paired difference lies above 0, fails when it lies below, and is
inconclusive otherwise, or when too few seeds were run to say.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from reverie.store.results import Result

Verdict = Literal["holds", "fails", "inconclusive"]
MIN_SEEDS = 3


@dataclass(frozen=True)
class Difference:
    """a - b in the unit of the metric, with its interval (None where none can be given) and what it means."""

    mean: float
    low: float | None
    high: float | None
    num_seeds: int
    verdict: Verdict
    words: str


def paired(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Difference:
    """Difference over the seeds that both arms have, with a t-interval.

    Args: a, b: value of the metric by seed.
    Returns: inconclusive below three seeds, because a spread of two numbers says next to nothing.
    Raises: ValueError if no seed is shared.
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError("the two arms share no seed, so there is no paired difference")
    differences = np.array([a[seed] - b[seed] for seed in shared])
    mean, num = float(differences.mean()), len(shared)
    if num == 1:
        return Difference(
            mean, None, None, 1, "inconclusive", "one seed: another seed may turn it round; run at least three"
        )
    half = float(stats.t.ppf((1 + confidence) / 2, num - 1) * differences.std(ddof=1) / np.sqrt(num))
    low, high = mean - half, mean + half
    if num < MIN_SEEDS:
        return Difference(mean, low, high, num, "inconclusive", f"{num} seeds are too few to say; run at least three")
    verdict, words = _judge(low, high)
    return Difference(mean, low, high, num, verdict, f"{words}, paired over {num} seeds")


@functools.cache
def rank_luck(points: int, seeds: int, level: float = 0.05) -> float:
    """The highest mean of so many rank correlations that chance orders still reach, either way, more often than the level.

    Of three points a correlation has four values, so three seeds may well agree, and their t-interval has no width. This is exact: all orders of
    the points are counted, and seeds are added by convolution. 0 for more than 7 points, where a t-interval serves.
    """
    if not 2 < points <= 7:
        return 0.0
    places = np.arange(points)
    # Squared differences of ranks add up to an even number; half of it is counted.
    sums = [int(((np.array(order) - places) ** 2).sum()) // 2 for order in itertools.permutations(range(points))]
    one = np.bincount(sums) / len(sums)
    all_ = functools.reduce(np.convolve, [one] * seeds)
    means = 1 - 12 * np.arange(len(all_)) / (seeds * points * (points**2 - 1))
    reached = np.array([all_[abs(means) > abs(mean) - 1e-9].sum() for mean in means])
    return float(abs(means[reached > level]).max())


def bootstrap(
    a: npt.NDArray[Any], b: npt.NDArray[Any], confidence: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Difference:
    """Difference in accuracy, or in the mean of another score of photos, with an interval over other test photos of the same kind, seeds taken as they are.

    It says whether these networks differ; whether the methods do, only :func:`paired` over several seeds can say.

    Args: a, b: (seeds, photos) or (photos,), True where the arm was right on that photo, or its score; the same photos in both.
    Raises: ValueError if the shapes differ or there are no photos.
    """
    if a.shape != b.shape or not a.size:
        raise ValueError(f"both arms need the same photos and seeds; got {a.shape} and {b.shape}")
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    gains = a.astype(float).mean(axis=0) - b.astype(float).mean(axis=0)  # of each photo, over seeds
    # Photos with equal gain are alike, so a draw of photos is a draw of how often each gain occurs.
    values, times = np.unique(gains, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(gains), times / len(gains), size=draws) @ values / len(gains)
    low, high = (float(value) for value in np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2]))
    verdict, words = _judge(low, high)
    return Difference(
        float(gains.mean()), low, high, len(a), verdict, f"{words}, over other test photos; seeds as they are"
    )


def _judge(low: float, high: float) -> tuple[Verdict, str]:
    if low > 0:
        return "holds", "the interval lies above zero"
    if high < 0:
        return "fails", "the interval lies below zero"
    return "inconclusive", "the interval includes zero"


def is_packed(record: Result) -> bool:
    """Whether a record says how it did on each photo."""
    return record.correct is not None or record.each is not None


def unpack(record: Result) -> npt.NDArray[np.float64]:
    """How a record did on each test photo, (num_test,): 1 or 0 for right or wrong, or its score there."""
    if record.each is not None:
        return np.array(record.each, dtype=np.float64)
    assert record.correct is not None
    assert record.num_test is not None
    packed = np.frombuffer(bytes.fromhex(record.correct), dtype=np.uint8)
    return np.unpackbits(packed, count=record.num_test).astype(np.float64)
