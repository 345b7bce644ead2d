import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from reverie.evaluate.metrics.classification import confusion, mean_per_class, top1

answers = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=40)
@given(answers)
def test_equals_slow_loops_and_scikit_learn(rows):
    predicted, labels = (np.array(column) for column in zip(*rows, strict=True))
    right = sum(p == y for p, y in rows)
    assert top1(predicted, labels) == pytest.approx(right / len(rows))
    shares = []
    for c in range(5):
        of_class = [p == c for p, y in rows if y == c]
        if of_class:
            shares.append(sum(of_class) / len(of_class))
    assert mean_per_class(predicted, labels) == pytest.approx(sum(shares) / len(shares))
    assert (confusion(predicted, labels, 5) == confusion_matrix(labels, predicted, labels=range(5))).all()
    if set(predicted) <= set(labels):  # scikit-learn warns about predicted classes that never occur
        assert mean_per_class(predicted, labels) == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_a_rare_class_counts_as_much_as_a_common_one():
    labels = np.array([0] * 98 + [1, 1])
    assert top1(np.zeros(100, int), labels) == 0.98
    assert mean_per_class(np.zeros(100, int), labels) == 0.5


@pytest.mark.parametrize("metric", [top1, mean_per_class])
@pytest.mark.parametrize(("predicted", "labels"), [([], []), ([1], [1, 2]), ([[1]], [[1]])])
def test_refuses_what_has_no_accuracy(metric, predicted, labels):
    with pytest.raises(ValueError, match=r"no rows|one length"):
        metric(np.array(predicted, int), np.array(labels, int))


def test_confusion_refuses_a_class_that_is_not_there():
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        confusion(np.array([2]), np.array([0]), 2)
