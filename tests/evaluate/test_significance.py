import numpy as np
import pytest
from scipy import stats

from reverie.evaluate.significance import bootstrap, paired, unpack
from tests.records import result


def test_interval_equals_scipys_paired_t_test():
    a, b = {0: 0.30, 1: 0.34, 2: 0.29, 3: 0.33, 9: 0.9}, {0: 0.25, 1: 0.27, 2: 0.26, 3: 0.30, 8: 0.0}
    found = paired(a, b)
    outside = stats.ttest_rel([a[s] for s in range(4)], [b[s] for s in range(4)]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((outside.low, outside.high))
    assert found.num_seeds == 4
    assert found.verdict == "holds"


def test_verdicts():
    assert paired({0: 0.1, 1: 0.12, 2: 0.11}, {0: 0.2, 1: 0.23, 2: 0.2}).verdict == "fails"
    assert paired({0: 0.1, 1: 0.3, 2: 0.2}, {0: 0.2, 1: 0.1, 2: 0.2}).verdict == "inconclusive"


def test_few_seeds_never_decide():
    one = paired({0: 0.9}, {0: 0.1})
    assert (one.verdict, one.low, one.high) == ("inconclusive", None, None)
    two = paired({0: 0.9, 1: 0.9001}, {0: 0.1, 1: 0.1})
    assert two.verdict == "inconclusive"
    assert two.low > 0  # the interval is there, the verdict is not
    assert "three" in one.words
    assert "three" in two.words


def test_no_shared_seed_is_no_comparison():
    with pytest.raises(ValueError, match="share no seed"):
        paired({0: 0.1}, {1: 0.1})


def test_bootstrap_follows_the_normal_interval_and_the_sign():
    draw = np.random.default_rng(0)
    a, b = draw.random((3, 2000)) < 0.4, draw.random((3, 2000)) < 0.3
    found = bootstrap(a, b)
    gains = a.mean(axis=0) - b.mean(axis=0)
    half = 1.96 * gains.std() / np.sqrt(2000)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.1 * half)
    assert found.verdict == "holds"
    assert bootstrap(b, a).verdict == "fails"
    assert bootstrap(a[0], a[0]).verdict == "inconclusive"


def test_right_answers_unpack():
    right = np.array([True, False, True, True, False, False, False, True, True, False])
    assert (unpack(result(correct=np.packbits(right).tobytes().hex(), num_test=10)) == right).all()
