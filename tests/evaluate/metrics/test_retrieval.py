import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.evaluate.metrics.retrieval import recall_at_k


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_recall_equals_a_slow_loop(seed, candidates, k):
    draw = np.random.default_rng(seed)
    similarity = draw.permutation(7 * candidates).reshape(7, candidates).astype(float)  # no ties
    relevant = draw.random((7, candidates)) < 0.4
    relevant[:, 0] = True
    hits = 0
    for query in range(7):
        first = sorted(range(candidates), key=lambda place: -similarity[query, place])[:k]
        hits += any(relevant[query, place] for place in first)
    assert recall_at_k(similarity, relevant, k) == pytest.approx(hits / 7)


def test_saying_the_same_of_everything_finds_nothing():
    assert recall_at_k(np.zeros((3, 4)), np.eye(3, 4, dtype=bool), 1) == 0.0
    assert recall_at_k(np.zeros((3, 4)), np.eye(3, 4, dtype=bool), 3) == 0.0
    assert recall_at_k(np.zeros((3, 4)), np.eye(3, 4, dtype=bool), 4) == 1.0


@pytest.mark.parametrize(
    ("similarity", "relevant", "k"),
    [
        (np.zeros((1, 2)), np.zeros((1, 2), bool), 1),
        (np.zeros((0, 2)), np.zeros((0, 2), bool), 1),
        (np.full((1, 2), np.nan), np.ones((1, 2), bool), 1),
        (np.zeros((1, 2)), np.ones((1, 2), bool), 0),
        (np.zeros((1, 2)), np.ones((1, 3), bool), 1),
    ],
)
def test_refuses_what_has_no_recall(similarity, relevant, k):
    with pytest.raises(ValueError, match=r"relevant|k must|finite"):
        recall_at_k(similarity, relevant, k)
