"""Distances between two sets of feature vectors, which the stages of SynTIC try to make smaller."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.floating]


def centroids(a: Rows, b: Rows) -> float:
    """Euclidean distance of the means of rows (n, d) and (m, d)."""
    return float(np.linalg.norm(a.mean(0) - b.mean(0)))


def mmd(a: Rows, b: Rows, max_rows: int = 1000, seed: int = 0) -> float:
    """Squared maximum mean discrepancy of two sets of rows, unbiased, with a Gaussian kernel.

    Source: Gretton et al. 2012, "A kernel two-sample test", its unbiased estimate; the width of the kernel is the median distance between
    rows of both sets together, its usual choice. About 0 for two samples of one distribution, and then also below.

    Args: a, b: (n, d) and (m, d), n and m at least 2; of more than ``most`` rows that many are drawn.
    """
    rng = np.random.default_rng(seed)
    a, b = (rows if len(rows) <= max_rows else rows[rng.permutation(len(rows))[:max_rows]] for rows in (a, b))
    both = np.concatenate([a, b]).astype(np.float64)
    squares = (both * both).sum(1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * both @ both.T, 0.0)
    width = np.median(distances[np.triu_indices(len(both), 1)])
    kernel = np.exp(-distances / (2 * width)) if width > 0 else np.ones_like(distances)
    n, m = len(a), len(b)
    own_a, own_b, across = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    within = (own_a.sum() - n) / (n * (n - 1)) + (own_b.sum() - m) / (m * (m - 1))
    return float(within - 2 * across.mean())
