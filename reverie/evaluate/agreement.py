"""How far raters agree beyond chance: Krippendorff's alpha, which takes any number of raters, of whom each may leave questions out.

    alpha = 1 - D_observed / D_expected      1 = all agree, 0 = as chance would, below 0 = they disagree more than that

D is the mean distance of two ratings: of the same thing by two raters, and of any two ratings at all.

Source: Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), by the matrix of coincidences.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Level = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(ratings: Sequence[Sequence[Hashable | None]], level: Level = "nominal") -> float | None:
    """Alpha of ratings.

    Args:
        ratings: for each thing, what each rater said of it; None where one said nothing.
        level: nominal, where values are equal or not; ordinal and interval for numbers, by rank or by size.
    Returns: None where nothing can be said: nothing was rated twice, or all ratings are the same.
    """
    rated = [[value for value in each if value is not None] for each in ratings]
    rated = [each for each in rated if len(each) > 1]  # what one rater alone rated says nothing of agreement
    values = list(dict.fromkeys(value for each in rated for value in each))
    if level != "nominal":
        values.sort(key=float)  # type: ignore[arg-type]
    if len(values) < 2:
        return None
    place = {value: number for number, value in enumerate(values)}
    pairs = np.zeros((len(values), len(values)))
    for each in rated:
        counts = np.bincount([place[value] for value in each], minlength=len(values)).astype(np.float64)
        pairs += (np.outer(counts, counts) - np.diag(counts)) / (len(each) - 1)
    totals = pairs.sum(1)
    expected = (np.outer(totals, totals) - np.diag(totals)) / (totals.sum() - 1)
    distances = _distances(values, totals, level)
    return float(1 - (pairs * distances).sum() / (expected * distances).sum())


def _distances(values: Sequence[Hashable], totals: npt.NDArray[np.float64], level: Level) -> npt.NDArray[np.float64]:
    """Squared distances of any two values."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        numbers = np.array(values, dtype=np.float64)
    else:  # between two ranks lie all ratings of those between them, and half of their own
        numbers = np.cumsum(totals) - totals / 2
    away: npt.NDArray[np.float64] = (numbers[:, None] - numbers[None]) ** 2
    return away
