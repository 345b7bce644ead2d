import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from reverie.evaluate.metrics.frechet import (
    Moments,
    frechet_distance,
    frechet_interval,
    kernel_distance,
    kernel_distances,
    kernel_interval,
)


def rows(num, width, seed, scale=1.0, shift=0.0):
    draw = np.random.default_rng(seed)
    mixed = draw.normal(size=(width, width))
    return (draw.normal(size=(num, width)) @ mixed * scale + shift).astype(np.float32)


def by_matrix_root(a, b):
    """As the definition has it, with scipy's root of the product."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(first @ second)
    away = a.mean(0) - b.mean(0)
    return away @ away + np.trace(first + second - 2 * np.real(root))


@pytest.mark.parametrize("num", [400, 30])  # more rows than numbers in each, and fewer: covariances without full rank
def test_frechet_distance_is_that_of_the_matrix_root(num):
    a, b = rows(num, 40, 0), rows(num + 20, 40, 1, scale=1.3, shift=0.5)
    found = frechet_distance(Moments.of([a]), Moments.of([b]))
    assert found == pytest.approx(by_matrix_root(a, b), rel=1e-6)
    assert frechet_distance(Moments.of([b]), Moments.of([a])) == pytest.approx(found, rel=1e-9)
    assert frechet_distance(Moments.of([a]), Moments.of([a])) == pytest.approx(0.0, abs=1e-6 * np.trace(np.cov(a.T)))


def test_frechet_distance_of_independent_numbers_has_a_closed_form():
    draw = np.random.default_rng(0)
    means, spreads = draw.normal(size=(2, 12)), draw.uniform(0.1, 3, size=(2, 12))
    a, b = (Moments(11, means[k], 10 * np.diag(spreads[k] ** 2)) for k in (0, 1))
    known = ((means[0] - means[1]) ** 2).sum() + ((spreads[0] - spreads[1]) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(known, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_moments_do_not_depend_on_how_rows_are_dealt(sizes, seed):
    sizes = [*sizes, 2]
    whole = rows(sum(sizes), 5, seed, shift=1e4)  # far from 0, where sums of squares lose their digits
    parts = np.split(whole, np.cumsum(sizes)[:-1])
    found, exact = Moments.of(parts), whole.astype(np.float64)
    assert found.count == len(whole)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(exact, rowvar=False), rtol=1e-7, atol=1e-7)
    joined = Moments.of(parts[: len(parts) // 2] or parts[:1])
    joined.join(Moments.of(parts[len(parts) // 2 or 1 :]))
    np.testing.assert_allclose(joined.scatter, found.scatter, rtol=1e-6, atol=1e-6)


def slow_kernel_distance(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)

    def k(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    n, m = len(a), len(b)
    within = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within += sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_kernel_distance_equals_a_slow_loop_whatever_the_blocks(n, m, block, seed):
    a, b = rows(n, 4, seed), rows(m, 4, seed + 1, shift=0.3)
    assert kernel_distance(a, b, block=block) == pytest.approx(slow_kernel_distance(a, b), rel=1e-6, abs=1e-9)


def test_two_samples_of_one_distribution_have_no_kernel_distance_and_others_have():
    a, b, far = rows(600, 8, 0)[:, :], rows(600, 8, 0)[::-1] + 0.0, rows(600, 8, 0, shift=1.0)
    draw = np.random.default_rng(3)
    b = b[draw.permutation(600)]
    same = kernel_distances(a[:300], b[:300], size=100, subsets=20)
    other = kernel_distances(a[:300], far[300:], size=100, subsets=20)
    assert abs(same.mean()) < 2 * same.std()
    assert other.mean() > same.mean() + 3 * same.std()
    assert len(kernel_distances(a, b, size=10_000, subsets=2)) == 2  # no more than there are


def test_interval_holds_the_distance_and_narrows_with_pictures():
    few, many, real = rows(60, 4, 5), rows(1000, 4, 5), rows(500, 4, 5, shift=1.0)
    value, low, high = frechet_interval(many, real)
    assert low < value < high
    assert value == pytest.approx(frechet_distance(Moments.of([many]), Moments.of([real])), rel=1e-8)
    wide = rows(30, 60, 1), rows(20, 60, 2)  # fewer rows than numbers in each
    assert frechet_interval(*wide, draws=2)[0] == pytest.approx(
        frechet_distance(*(Moments.of([one]) for one in wide)), rel=1e-9
    )
    _, least, most = frechet_interval(few, real)
    assert most - least > high - low


def test_kernel_interval_is_about_as_wide_as_distances_of_other_samples_are_apart():
    real = rows(400, 4, 9, shift=0.5)
    found = [
        kernel_interval(some, real[k * 100 : (k + 1) * 100]) for k, some in enumerate(np.split(rows(400, 4, 9), 4))
    ]
    for value, low, high in found:
        assert low < value < high
    apart = np.ptp([value for value, _, _ in found])
    assert apart < 2 * np.mean([high - low for _, low, high in found])
    value, _, _ = kernel_interval(real[:100], real[100:])
    assert value == kernel_distance(real[:100], real[100:])


def test_what_has_no_distance_is_refused():
    with pytest.raises(ValueError, match="at least 2 rows, not 1"):
        frechet_distance(Moments.of([rows(1, 3, 0)]), Moments.of([rows(4, 3, 0)]))
    with pytest.raises(ValueError, match="features of 3 numbers"):
        frechet_distance(Moments.of([rows(4, 3, 0)]), Moments.of([rows(4, 2, 0)]))
    with pytest.raises(ValueError, match="no row"):
        Moments.of([])
    with pytest.raises(ValueError, match="not finite"):
        Moments.of([np.full((3, 2), np.nan)])
    with pytest.raises(ValueError, match="at least 2 of each"):
        kernel_distance(rows(1, 3, 0), rows(4, 3, 0))
