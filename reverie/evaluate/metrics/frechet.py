"""How far apart two sets of pictures are, by features of them: Fréchet distance and kernel distance.

    Fréchet    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))          of means m and covariances S
    kernel     squared maximum mean discrepancy, unbiased, with k(x, y) = (x.y / d + 1)^3

Which features these are is for the caller to say: the numbers are FID and KID (arXiv:1706.08500, 1801.01401) on those of the
Inception network of 2015 alone. Fréchet distances fall with the number of pictures, so only sets of equal size compare; kernel
distances do not, and may come out below 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]

BLOCK = 1000  # rows of a block of the kernel
DEGREE = 3


@dataclass
class Moments:
    """Mean and covariance of rows that come a batch at a time, in float64 whatever the rows are.

    Batches are centred by themselves and joined (Chan et al. 1979), so a large mean costs no digits.
    """

    count: int
    mean: Floats  # (d,)
    scatter: Floats  # (d, d): sum of the outer products about the mean

    @classmethod
    def empty(cls, width: int) -> Moments:
        """Of no row yet."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, batches: Iterable[Rows]) -> Moments:
        """Of all batches (n, d). Raises ValueError if there is none."""
        found: Moments | None = None
        for rows in batches:
            found = cls.empty(rows.shape[1]) if found is None else found
            found.add(rows)
        if found is None:
            raise ValueError("there is no row to take moments of")
        return found

    def add(self, rows: Rows) -> None:
        """Take in rows (n, d). Raises ValueError for another width, or a number that is not finite."""
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"expected rows of {len(self.mean)} numbers, got {rows.shape}")
        if not len(rows):
            return
        exact = rows.astype(np.float64)
        mean = exact.mean(0)
        if not np.isfinite(mean).all():
            raise ValueError("features are not finite")
        exact -= mean
        self.join(Moments(len(rows), mean, exact.T @ exact))

    def join(self, other: Moments) -> None:
        """Take in what another one has."""
        total, away = self.count + other.count, other.mean - self.mean
        self.scatter += other.scatter + np.outer(away, away) * (self.count * other.count / max(total, 1))
        self.mean = self.mean + away * (other.count / max(total, 1))
        self.count = total

    @property
    def covariance(self) -> Floats:
        """(d, d), unbiased. Raises ValueError below two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, not {self.count}")
        spread: Floats = self.scatter / (self.count - 1)
        return spread


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance of two normal distributions with these moments, at least 0.

    With S = R R', the trace of (S1 S2)^(1/2) is the sum of the singular values of R1' R2. They are real and at least 0 whatever ranks S1 and S2
    have, and no rounding error is put under a root, so nothing imaginary has to be thrown away and nothing small to be added.

    Raises: ValueError for moments of different widths, or of fewer than two rows.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} numbers have no distance to those of {len(b.mean)}")
    return _between(a.mean, _root(a.covariance), b.mean, _root(b.covariance))


def _between(mean: Floats, root: Floats, other_mean: Floats, other_root: Floats) -> float:
    shared = np.linalg.svd(root.T @ other_root, compute_uv=False).sum()
    away = mean - other_mean
    return max(float(away @ away + (root**2).sum() + (other_root**2).sum() - 2 * shared), 0.0)


def _root(covariance: Floats) -> Floats:
    """R with R R' = S. What is 0 but for rounding is 0, as its root would be far more than rounding."""
    values, vectors = np.linalg.eigh(covariance)
    noise = max(float(values[-1]), 0.0) * len(values) * np.finfo(np.float64).eps
    return vectors * np.sqrt(np.where(values > noise, values, 0.0))


def _mean_and_root(rows: Rows) -> tuple[Floats, Floats]:
    """The same of rows; fewer than their numbers are, once they are centred, a root by themselves, and a small one."""
    if len(rows) > rows.shape[1]:
        found = Moments.of([rows])
        return found.mean, _root(found.covariance)
    exact = rows.astype(np.float64)
    mean = exact.mean(0)
    return mean, (exact - mean).T / np.sqrt(len(rows) - 1)


def kernel_distance(a: Rows, b: Rows, degree: int = DEGREE, block: int = BLOCK) -> float:
    """Squared maximum mean discrepancy over all pairs of rows, unbiased; no more than one block of the kernel is held at a time.

    Args: a, b: (n, d) and (m, d), n and m at least 2.
    Raises: ValueError for too few rows, or different widths.
    """
    _check(a, b)
    n, m = len(a), len(b)
    own_a, own_b = _within(a, degree, block), _within(b, degree, block)
    across = sum(kernel.sum() for _, _, kernel in _blocks(a, b, degree, block))
    return float(own_a / (n * (n - 1)) + own_b / (m * (m - 1)) - 2 * across / (n * m))


def kernel_distances(
    a: Rows, b: Rows, size: int = BLOCK, subsets: int = 100, seed: int = 0, degree: int = DEGREE
) -> Floats:
    """The same of subsets (subsets,) drawn without putting back, as KID is usually told: by their mean and spread.

    Args: size: rows of each subset, at most as many as the smaller set has.
    """
    _check(a, b)
    draw, size = np.random.default_rng(seed), min(size, len(a), len(b))
    return np.array(
        [
            kernel_distance(a[draw.permutation(len(a))[:size]], b[draw.permutation(len(b))[:size]], degree)
            for _ in range(subsets)
        ]
    )


def kernel_interval(
    a: Rows, b: Rows, subsets: int = 50, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Kernel distance of all rows and its interval, by the spread of halves of them (or of a thousand, where that is less).

    Halves drawn without putting back vary as the whole would from sample to sample (the jackknife that leaves half out); smaller parts
    vary more, for which their spread is brought down.
    """
    value, size = kernel_distance(a, b), max(2, min(BLOCK, len(a) // 2, len(b) // 2))
    drawn = kernel_distances(a, b, size, subsets, seed)
    left = max(1, min(len(a), len(b)) - size)
    return about(value, drawn * np.sqrt(min(1.0, size / left)), confidence)


def frechet_interval(
    a: Rows, b: Rows, draws: int = 20, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Fréchet distance of all rows, and its interval over other pictures like those of ``a``; ``b`` is taken as it is.

    A bootstrap's distances lie above that of all rows, because fewer different rows are in each draw: the interval is their spread
    about the distance itself.
    """
    _check(a, b)
    theirs, draw = _mean_and_root(b), np.random.default_rng(seed)
    value = _between(*_mean_and_root(a), *theirs)
    drawn = [_between(*_mean_and_root(a[draw.integers(len(a), size=len(a))]), *theirs) for _ in range(draws)]
    return about(value, np.array(drawn), confidence)


def about(value: float, drawn: Floats, confidence: float = 0.95) -> tuple[float, float, float]:
    """A value with the spread of a bootstrap about it, where the bootstrap's own mean is biased."""
    edge = (1 - confidence) / 2
    low, high = np.quantile(drawn - drawn.mean(), [edge, 1 - edge]).tolist()
    return value, value + min(low, 0.0), value + max(high, 0.0)


def _check(a: Rows, b: Rows) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"expected rows (n, d) and (m, d), at least 2 of each; got {a.shape} and {b.shape}")


def _within(a: Rows, degree: int, block: int) -> float:
    """The sum of the kernel over pairs of different rows; a block stands for the one that mirrors it too."""
    found = sum(
        kernel.sum() * (1 if top == left else 2) for top, left, kernel in _blocks(a, a, degree, block, mirrored=True)
    )
    return float(found - _diagonal(a, degree).sum())


def _blocks(a: Rows, b: Rows, degree: int, size: int, mirrored: bool = False) -> Iterator[tuple[int, int, Floats]]:
    """Where a block begins, and the kernel there; of ``mirrored`` ones only those on one side of the diagonal."""
    for top in range(0, len(a), size):
        rows = a[top : top + size].astype(np.float64)
        for left in range(top if mirrored else 0, len(b), size):
            yield top, left, _kernel(rows @ b[left : left + size].astype(np.float64).T, a.shape[1], degree)


def _diagonal(a: Rows, degree: int) -> Floats:
    exact = a.astype(np.float64)
    return _kernel((exact * exact).sum(1), a.shape[1], degree)


def _kernel(products: Any, width: int, degree: int) -> Floats:
    products /= width
    products += 1.0
    found = products.copy()
    for _ in range(degree - 1):  # several times as fast as a power
        found *= products
    return found  # type: ignore[no-any-return]
