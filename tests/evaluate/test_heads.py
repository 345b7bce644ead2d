import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reverie.errors import InputError
from reverie.evaluate.heads import STRENGTHS, SgdProbe, _folds, logistic_heads, probe, sgd_heads, split

from .test_logistic import blobs


@pytest.mark.parametrize("protocol", ["logistic", "sgd"])
def test_the_choice_never_sees_the_test_split(protocol):
    """Test labels that are wrong on purpose change the score and nothing else; they are opened once, at the end."""
    x, labels = blobs(400)
    test_x, test_labels = blobs(200, seed=5)
    opened = []

    def opener(answers):
        def open_test():
            opened.append(1)
            return test_x, answers

        return open_test

    few = {"logistic": (0.1, 10.0, 1e4), "sgd": (0.01, 0.1)}[protocol]
    honest = probe(x, labels, opener(test_labels), 4, protocol=protocol, candidates=few)
    turned = probe(x, labels, opener((test_labels + 1) % 4), 4, protocol=protocol, candidates=few)
    assert len(opened) == 2
    assert honest.chosen == turned.chosen
    assert honest.held_out == turned.held_out
    assert (honest.predicted == turned.predicted).all()
    assert honest.top1 > 0.6 > 0.25 > turned.top1

    def never():
        raise RuntimeError("opened")

    with pytest.raises(RuntimeError, match="opened"):  # everything before it is done without
        probe(x, labels, never, 4, protocol=protocol, candidates=few)


def test_the_best_held_out_candidate_is_refitted_on_all_of_train():
    x, labels = blobs(150, d=60, noise=5)
    test_x, test_labels = blobs(50, d=60, seed=3, noise=5)
    candidates = (0.1, 100.0, 1e5)  # weaker ones have answers that depend on how they are approached
    found = probe(x, labels, lambda: (test_x, test_labels), 4, candidates=candidates)
    inside, outside = split(labels.numpy(), 0.2, 0)
    scores = []
    for strength in candidates:
        guess = logistic_heads(x[inside], labels[inside], 4, (strength,)).predict(x[outside])[0]
        scores.append(float((guess == labels[outside]).double().mean()))
    assert found.held_out == pytest.approx(scores)
    assert len(set(scores)) == 3
    assert found.chosen == candidates[int(np.argmax(scores))]
    refitted = logistic_heads(x, labels, 4, (found.chosen,)).predict(test_x)[0]
    assert (found.predicted == refitted.numpy()).all()


def test_folds_hold_every_row_out_once_and_their_mean_chooses():
    x, labels = blobs(150, d=60, noise=5)
    candidates = (0.1, 100.0, 1e5)
    found = probe(x, labels, lambda: (x, labels), 4, candidates=candidates, folds=5)
    parts = _folds(labels, 5, 0)
    outside = np.concatenate([part[1].numpy() for part in parts])
    assert sorted(outside) == list(range(len(labels)))
    scores = []
    for strength in candidates:
        right = []
        for inside, held in parts:
            assert not set(inside.tolist()) & set(held.tolist())
            guess = logistic_heads(x[inside], labels[inside], 4, (strength,)).predict(x[held])[0]
            right.append(float((guess == labels[held]).double().mean()))
        scores.append(np.mean(right))
    assert found.held_out == pytest.approx(scores, abs=0.02)  # what only chooses is solved less exactly
    assert found.chosen == candidates[int(np.argmax(scores))]
    assert found.folds == 5
    few = probe(x[[0, 1, 50, 51]], torch.tensor([0, 0, 1, 1]), lambda: (x, labels), 4, candidates=candidates, folds=5)
    assert few.folds == 2
    assert len(_folds(torch.tensor([0, 0, 1, 1]), 5, 0)) == 2  # no more than a class has rows
    with pytest.raises(InputError, match="at least two"):
        _folds(torch.arange(5), 5, 0)


def test_split_is_stratified_repeatable_and_whole():
    labels = np.array([0] * 50 + [1] * 10 + [2] * 2 + [3])
    inside, outside = split(labels, 0.2, 0)
    assert sorted([*inside, *outside]) == list(range(63))
    assert np.bincount(labels[outside], minlength=4).tolist() == [10, 2, 1, 0]
    assert (split(labels, 0.2, 0)[1] == outside).all()
    assert (split(labels, 0.2, 1)[1] != outside).any()
    with pytest.raises(InputError, match="at least two"):
        split(np.arange(5), 0.2, 0)


def test_there_are_45_strengths_over_eleven_decades():
    assert len(STRENGTHS) == 45
    assert STRENGTHS[0] == pytest.approx(1e-6)
    assert STRENGTHS[-1] == pytest.approx(1e5)


def test_a_constant_feature_does_no_harm():
    x, labels = blobs(100)
    x[:, 0] = 7.0
    assert torch.isfinite(logistic_heads(x, labels, 4, (1.0,)).weights).all()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_sgd_heads_equal_torchs_own_sgd_head_by_head(batch_norm):
    x, labels = blobs(64)
    rates = (0.01, 0.5)
    found = sgd_heads(x, labels, 4, rates, batch_norm=batch_norm, epochs=12, batch_size=64)
    start = sgd_heads(x, labels, 4, (0.0,), epochs=1, batch_size=64)  # rate 0 leaves the first weights
    for head, base in enumerate(rates):
        linear = torch.nn.Linear(12, 4)
        linear.weight.data, linear.bias.data = start.weights[0].T.clone(), torch.zeros(4)
        norm = torch.nn.BatchNorm1d(12, eps=1e-6, affine=False) if batch_norm else torch.nn.Identity()
        optimizer = torch.optim.SGD(linear.parameters(), lr=base * 64 / 256, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
        for _ in range(12):  # one batch an epoch, so the order of rows does not matter
            optimizer.zero_grad()
            F.cross_entropy(linear(norm(x)), labels).backward()
            optimizer.step()
            schedule.step()
        norm.eval()
        assert torch.allclose(found.weights[head], linear.weight.T, atol=1e-5)
        assert torch.allclose(found.bias[head], linear.bias, atol=1e-5)
        assert (found.predict(x)[head] == linear(norm(x)).argmax(dim=1)).all()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_probe_on_features_that_stay_is_the_probe_on_features_that_are_new(batch_norm):
    """With the same rows in every epoch both say the same of the test split, after the same choice."""
    x, labels = blobs(400)
    test_x, test_labels = blobs(300, seed=5)
    options = {"candidates": (0.001, 0.05, 5.0), "batch_norm": batch_norm, "epochs": 5}
    expected = probe(x, labels, lambda: (test_x, test_labels), 4, protocol="sgd", **options)
    found = SgdProbe(labels, 12, 4, **options)
    for _ in range(5):
        found.epoch(x)
    found = found.finish(x, lambda: (test_x, test_labels))
    assert (found.chosen, found.held_out, found.top1) == (expected.chosen, expected.held_out, expected.top1)
    assert (found.predicted == expected.predicted).all()
    assert len(set(found.held_out)) > 1


def test_a_probe_learns_from_the_rows_of_each_epoch_and_chooses_on_rows_that_stay():
    """One batch an epoch, whose rows are another draw each time, against torch's own SGD."""
    x, labels = blobs(64)
    epochs = [x + torch.randn(x.shape, generator=torch.Generator().manual_seed(number)) for number in range(6)]
    found = SgdProbe(labels, 12, 4, candidates=(0.5,), epochs=6)
    for rows in epochs:
        found.epoch(rows)
    linear = torch.nn.Linear(12, 4)
    first = sgd_heads(x, labels, 4, (0.0,), epochs=1, batch_size=64)
    linear.weight.data, linear.bias.data = first.weights[0].T.clone(), torch.zeros(4)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.5 * 64 / 256, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for rows in epochs:
        optimizer.zero_grad()
        F.cross_entropy(linear(rows), labels).backward()
        optimizer.step()
        schedule.step()
    final = found.finish(x, lambda: (x, labels))
    assert final.predicted.tolist() == linear(x).argmax(dim=1).tolist()
    _, outside = split(labels.numpy(), 0.2, 0)
    assert len(outside) == 12 or len(outside) == 13
    assert round(final.held_out[0] * len(outside), 6).is_integer()
