import math

import pytest
import torch

from reverie.evaluate.knn import knn


def slow_knn(train, labels, test, num_classes, k, temperature):
    answers = []
    for query in test:
        near = []
        for row, label in zip(train, labels, strict=True):
            near.append((float(query @ row / (query.norm() * row.norm())), int(label)))
        votes = [0.0] * num_classes
        for similarity, label in sorted(near, reverse=True)[:k]:
            votes[label] += math.exp(similarity / temperature)
        answers.append(votes.index(max(votes)))
    return answers


@pytest.mark.parametrize("k", [1, 5, 20, 500])
def test_equals_a_slow_loop(k):
    draw = torch.Generator().manual_seed(k)
    train, test = torch.randn(60, 8, generator=draw), torch.randn(25, 8, generator=draw)
    labels = torch.randint(4, (60,), generator=draw)
    got = knn(train, labels, test, 4, k=k, temperature=0.3, chunk=7)
    assert got.tolist() == slow_knn(train, labels, test, 4, k, 0.3)


def test_a_low_temperature_does_not_overflow():
    train = torch.eye(3)
    assert knn(train, torch.tensor([0, 1, 2]), 5 * train, 3, k=3, temperature=1e-3).tolist() == [0, 1, 2]


def test_refuses_no_neighbours():
    with pytest.raises(ValueError, match="k >= 1"):
        knn(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), 2, k=0)
