import math

import numpy as np
import pytest

from reverie.evaluate.metrics.distance import centroids, mmd


def slow_mmd(a, b):
    """Gretton et al. 2012, lemma 6, pair by pair."""
    both = [*a, *b]
    apart = [sum((x - y) ** 2) for i, x in enumerate(both) for y in both[i + 1 :]]
    width = np.median(apart)

    def k(x, y):
        return math.exp(-sum((x - y) ** 2) / (2 * width))

    n, m = len(a), len(b)
    xx = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_mmd_is_the_formula_pair_by_pair():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((9, 4)), rng.standard_normal((13, 4)) + 0.7
    assert mmd(a, b) == pytest.approx(slow_mmd(a, b), rel=1e-9)


def test_mmd_is_about_zero_for_one_distribution_and_grows_with_the_distance():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((400, 8))
    values = [mmd(a, rng.standard_normal((400, 8)) + shift) for shift in (0.0, 0.3, 1.0)]
    assert abs(values[0]) < 0.005 < values[1] < values[2]
    assert (
        mmd(a, a + 1, max_rows=50, seed=1) == mmd(a, a + 1, max_rows=50, seed=1) != mmd(a, a + 1, max_rows=50, seed=2)
    )
    assert mmd(np.ones((3, 2)), np.ones((4, 2))) == pytest.approx(0.0)


def test_centroids():
    assert centroids(np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 3.0]])) == pytest.approx(3.0)
