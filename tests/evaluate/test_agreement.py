import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.evaluate.agreement import krippendorff_alpha

X = None
# Four observers and twelve units: the example of Krippendorff (2011), section D and following, who finds these numbers.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, X, X, X],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, X, 3],
    [X, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, X],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, X],
]


@pytest.mark.parametrize(("level", "known"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_example_of_krippendorff(level, known):
    assert krippendorff_alpha(list(zip(*OBSERVERS, strict=True)), level) == pytest.approx(known, abs=0.0005)


def slow_nominal(ratings):
    """The definition: mean disagreement of pairs within a unit, against that of any two ratings."""
    units = [[value for value in each if value is not None] for each in ratings]
    units = [each for each in units if len(each) > 1]
    every = [value for each in units for value in each]
    within = sum(sum(a != b for a, b in itertools.permutations(each, 2)) / (len(each) - 1) for each in units) / len(
        every
    )
    across = sum(a != b for a, b in itertools.permutations(every, 2)) / (len(every) * (len(every) - 1))
    return 1 - within / across


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=3, max_size=3), min_size=2, max_size=8))
def test_alpha_is_that_of_a_slow_loop(ratings):
    found = krippendorff_alpha(ratings)
    rated = [value for each in ratings if sum(v is not None for v in each) > 1 for value in each if value is not None]
    if len(set(rated)) < 2:
        assert found is None
    else:
        assert found == pytest.approx(slow_nominal(ratings))


def test_full_agreement_and_none():
    assert krippendorff_alpha([[True, True, True], [False, False, False]]) == 1.0
    assert krippendorff_alpha([[True, False], [False, True]]) < 0
    assert krippendorff_alpha([[True, None], [None, False]]) is None
    assert krippendorff_alpha([]) is None
