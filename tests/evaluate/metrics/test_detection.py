import itertools

import numpy as np
import pytest

from reverie.evaluate.metrics.detection import num_right, overlaps


def boxes(rng, count, side=12):
    corners = np.sort(rng.integers(0, side + 1, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4).astype(float)


def slow_overlap(a, b, side=12):
    """Pixel by pixel."""
    inside = [
        {(x, y) for x, y in itertools.product(range(side), repeat=2) if x0 <= x < x1 and y0 <= y < y1}
        for x0, y0, x1, y1 in (a, b)
    ]
    return len(inside[0] & inside[1]) / len(inside[0] | inside[1]) if inside[0] and inside[1] else 0.0


def test_overlaps_by_counting_pixels():
    rng = np.random.default_rng(0)
    a, b = boxes(rng, 12), boxes(rng, 9)
    expected = [[slow_overlap(one, other) for other in b] for one in a]
    np.testing.assert_allclose(overlaps(a, b), expected, atol=1e-12)
    assert overlaps(a, np.empty((0, 4))).shape == (12, 0)


def slow_right(names, there, said_names, said, least):
    """The best of all ways to give every answer to another object."""
    best, count = 0, len(names)
    for order in itertools.permutations([*range(count), *[None] * len(said)], len(said)):
        right = sum(
            place is not None and names[place] == name and slow_overlap(there[place], box) >= least
            for place, name, box in zip(order, said_names, said, strict=True)
        )
        best = max(best, right)
    return best


@pytest.mark.parametrize("seed", range(20))
def test_right_by_trying_all_ways(seed):
    rng = np.random.default_rng(seed)
    there, said = boxes(rng, 3), boxes(rng, 3)
    said[:2] = there[:2] + np.array([0, 0, rng.integers(2), 0])
    names, said_names = list(rng.choice(["a", "b"], 3)), list(rng.choice(["a", "b"], 3))
    assert num_right(names, there, said_names, said, 0.3) == slow_right(names, there, said_names, said, 0.3)


def test_each_thing_counts_once():
    box = np.array([[0, 0, 4, 4]])
    assert num_right(["a"], box, ["a", "a"], np.repeat(box, 2, 0)) == 1
    assert num_right(["a"], box, ["b"], box) == 0
    assert num_right(["a"], box, ["a"], np.array([[0, 0, 4, 2]])) == 1  # exactly a half
    assert num_right(["a"], box, ["a"], np.array([[0, 0, 4, 1.9]])) == 0
    assert num_right(["a"], box, [], np.empty(0)) == num_right([], np.empty((0, 4)), ["a"], box) == 0
