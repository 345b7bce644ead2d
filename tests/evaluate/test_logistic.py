import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from reverie.evaluate import logistic
from reverie.evaluate.logistic import fit_logistic


def blobs(n=300, d=12, c=4, seed=0, noise=1.5):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(c, (n,), generator=draw)
    centres = torch.randn(c, d, generator=torch.Generator().manual_seed(99))
    return centres[labels] + noise * torch.randn(n, d, generator=draw), labels


def objective(x, labels, weights, bias, strength):
    return F.cross_entropy(x @ weights + bias, labels) + strength / (2 * len(x)) * weights.pow(2).sum()


STRENGTHS = torch.logspace(-3, 4, 9, dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_all_strengths_at_once_equal_scikit_learn_one_by_one(dtype, close):
    x, labels = blobs()
    fresh, _ = blobs(seed=1)
    found = fit_logistic(x.to(dtype), labels, 4, STRENGTHS, tolerance=1e-10 if dtype == torch.float64 else 1e-6)
    for place, strength in enumerate(STRENGTHS.tolist()):
        outside = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=5000).fit(x.double().numpy(), labels.numpy())
        weights, bias = torch.from_numpy(outside.coef_.T.copy()), torch.from_numpy(outside.intercept_)
        expected = objective(x.double(), labels, weights, bias, strength)
        got = objective(x.double(), labels, found.weights[place].double(), found.bias[place].double(), strength)
        assert float(got) == pytest.approx(float(expected), rel=close)
        assert float(found.objective[place]) == pytest.approx(float(got), rel=1e-5)
        ours = (fresh.double() @ found.weights[place].double() + found.bias[place].double()).argmax(dim=1)
        assert np.mean(ours.numpy() == outside.predict(fresh.double().numpy())) >= 0.99


@pytest.mark.parametrize("cells", [1, 3 * 300 * 4])
def test_how_many_strengths_work_together_changes_nothing(cells, monkeypatch):
    x, labels = blobs()
    monkeypatch.setitem(logistic.TOGETHER, "cpu", 64)
    together = fit_logistic(x.double(), labels, 4, STRENGTHS[3:], tolerance=1e-8)
    monkeypatch.setitem(logistic.CELLS, "cpu", cells)
    apart = fit_logistic(x.double(), labels, 4, STRENGTHS[3:], tolerance=1e-8)
    assert torch.allclose(together.objective, apart.objective, rtol=1e-6)
    # The weakest strengths leave the weights almost free: equal objectives are all that can be asked of those.
    assert torch.allclose(together.weights[4:], apart.weights[4:], atol=1e-2)


def test_a_problem_that_starts_from_anothers_solution_does_not_take_itself_for_solved():
    """Features of very unequal spread: without some steps each, all weak strengths would keep the solution of a stronger one."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(8, (400,), generator=draw)
    x = torch.randn(400, 80, generator=draw, dtype=torch.float64)
    x[:, -8:] += torch.eye(8)[labels]
    turn = torch.linalg.qr(torch.randn(80, 80, generator=draw, dtype=torch.float64))[0]
    x = (x * torch.logspace(0, -2, 80)) @ turn
    x = x / x.std(dim=0)
    strengths = torch.logspace(3, -5, 33, dtype=torch.float64)
    swept = fit_logistic(x, labels, 8, strengths, tolerance=1e-4).objective[-1]
    alone = fit_logistic(x, labels, 8, strengths[-1:], tolerance=1e-4).objective[0]
    assert swept < 1.7 * alone  # 1.94 without


def test_infinite_strength_leaves_the_class_shares():
    x, labels = blobs()
    found = fit_logistic(x.double(), labels, 4, torch.tensor([1e9]), tolerance=1e-9)
    assert torch.allclose(found.bias[0].softmax(dim=0), labels.bincount().double() / len(labels), atol=1e-3)


def test_separable_rows_with_almost_no_penalty_end():
    x = torch.cat([torch.randn(50, 30) + 5, torch.randn(50, 30) - 5])
    labels = torch.arange(2).repeat_interleave(50)
    found = fit_logistic(x, labels, 2, torch.tensor([0.0, 1e-6]))
    assert (found.iterations < 1000).all()
    assert ((x @ found.weights[0] + found.bias[0]).argmax(dim=1) == labels).all()


def test_a_class_without_rows_is_never_the_answer():
    x, labels = blobs()
    found = fit_logistic(x, labels, 6, torch.tensor([1.0]))
    assert (x @ found.weights[0] + found.bias[0]).argmax(dim=1).max() < 4


@pytest.mark.parametrize("x", [torch.zeros(0, 2), torch.full((2, 2), torch.nan)])
def test_refuses_no_rows_and_no_numbers(x):
    with pytest.raises(ValueError, match="finite features"):
        fit_logistic(x, torch.zeros(len(x), dtype=torch.int64), 2, torch.tensor([1.0]))


@pytest.mark.parametrize("strength", [1e3, 1e4, 1e5])
def test_a_strong_penalty_is_no_excuse_to_stop_at_zero(strength):
    """All that can be gained there is less than the tolerance times the objective, and still decides every answer."""
    x, labels = blobs()
    x = x.double()
    best = fit_logistic(x, labels, 4, torch.tensor([strength]), tolerance=1e-12).objective
    loose = fit_logistic(x, labels, 4, torch.tensor([strength]), tolerance=1e-2).objective
    zero = objective(x, labels, x.new_zeros(12, 4), x.new_zeros(4), strength)
    assert float(zero - loose) > 0.95 * float(zero - best)
