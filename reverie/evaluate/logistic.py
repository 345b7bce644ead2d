"""Multinomial logistic regression at many L2 strengths at once: one batched L-BFGS, on any device.

Shapes: n rows, d features (+1 for the bias), s strengths, c classes. All s problems share the rows, so that one matrix
product serves them all; a problem leaves the batch when it has converged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ARMIJO, WOLFE = 1e-4, 0.9


@dataclass(frozen=True)
class LogisticFit:
    """Solutions, one a strength. Logits of rows x under strength j: ``x @ weights[j] + bias[j]``."""

    weights: Tensor  # (s, d, c)
    bias: Tensor  # (s, c)
    objective: Tensor  # (s,) float64: mean cross-entropy + strength / (2 n) * |weights|^2
    iterations: Tensor  # (s,) int64


def fit_logistic(
    x: Tensor,
    labels: Tensor,
    num_classes: int,
    strengths: Tensor,
    *,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
    memory: int = 10,
) -> LogisticFit:
    """Minimise sum of cross-entropies + strength / 2 * |weights|^2 for every strength; the bias is not penalised.

    A strength is scikit-learn's 1 / C. L-BFGS starts from a diagonal: the penalty and the mean curvature at zero. The
    exact Hessian at zero took ten times the iterations, because on separable rows the minimum lies far from zero.

    Args:
        x: float (n, d), best standardised.
        labels: int64 (n,) in [0, num_classes).
        strengths: (s,), not negative.
        tolerance: stop a problem when its estimated distance to the minimum, relative to its value, is below this.
        memory: pairs of steps that L-BFGS remembers.
    Raises: ValueError for no rows, features not finite, or negative strengths.
    """
    n, d = x.shape
    if not n or not torch.isfinite(x).all() or (strengths < 0).any():
        raise ValueError(f"needs rows, finite features and strengths >= 0; got {n} rows")
    rows = torch.cat([x, x.new_ones(n, 1)], dim=1)  # (n, d+1)
    truth = F.one_hot(labels, num_classes).to(x.dtype)[:, None, :]  # (n, 1, c)
    penalised = x.new_ones(d + 1, 1, 1)
    penalised[d] = 0
    num = len(strengths)
    penalty = penalised * (strengths.to(x) / n)[None, :, None]  # (d+1, s, 1)

    out = x.new_zeros(d + 1, num, num_classes)
    objective = torch.zeros(num, dtype=torch.float64, device=x.device)
    iterations = torch.zeros(num, dtype=torch.int64, device=x.device)

    # State of the problems still at work; ``who`` are their places among all. Every tensor has problems in dimension 1.
    who = torch.arange(num, device=x.device)
    weights = out.clone()
    logits = x.new_zeros(n, num, num_classes)
    inverse = 1 / (rows.square().mean() / num_classes + penalty)
    value = _cross_entropy(logits, truth)
    gradient = _gradient(rows, logits, truth, weights, penalty)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    stuck = torch.zeros(num, dtype=torch.bool, device=x.device)

    for iteration in range(max_iterations + 1):
        direction = -_two_loops(gradient, steps, changes, inverse)
        slope = _dot(gradient, direction)  # minus half of it is what a quadratic has left to gain
        finished = (-0.5 * slope.double() <= tolerance * value) | stuck | (iteration == max_iterations)
        if finished.any():
            done, left = finished.nonzero()[:, 0], (~finished).nonzero()[:, 0]
            out[:, who[done]] = weights[:, done]
            objective[who[done]], iterations[who[done]] = value[done], iteration
            if not len(left):
                break
            who, value = who[left], value[left]
            weights, logits, gradient = weights[:, left], logits[:, left], gradient[:, left]
            direction, slope, penalty, inverse = direction[:, left], slope[left], penalty[:, left], inverse[:, left]
            steps, changes = [item[:, left] for item in steps], [item[:, left] for item in changes]

        turn = (rows @ direction.flatten(1)).view_as(logits)  # logits move by t * turn along the direction
        length, value, stuck = _line_search(logits, turn, truth, weights, direction, penalty, value, slope)
        step = length[:, None] * direction
        weights, logits = weights + step, logits + length[:, None] * turn
        before, gradient = gradient, _gradient(rows, logits, truth, weights, penalty)
        steps, changes = [*steps, step][-memory:], [*changes, gradient - before][-memory:]

    return LogisticFit(out[:d].transpose(0, 1), out[d], objective, iterations)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each problem, (s,)."""
    return (a * b).sum(dim=(0, 2))


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over rows, (s,) in float64: small differences decide the line search."""
    return (logits.logsumexp(dim=2) - (logits * truth).sum(dim=2)).sum(dim=0, dtype=torch.float64) / len(logits)


def _gradient(rows: Tensor, logits: Tensor, truth: Tensor, weights: Tensor, penalty: Tensor) -> Tensor:
    wrong = logits.softmax(dim=2) - truth
    return (rows.T @ wrong.flatten(1)).view_as(weights) / len(rows) + penalty * weights


def _two_loops(gradient: Tensor, steps: list[Tensor], changes: list[Tensor], inverse: Tensor) -> Tensor:
    """Inverse Hessian times gradient from remembered steps (Nocedal and Wright, algorithm 7.4), all problems at once."""
    result, alphas = gradient, []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        alpha = _ratio(_dot(step, result), _dot(step, change))
        result = result - alpha[:, None] * change
        alphas.append(alpha)
    result = inverse * result
    if steps:
        scale = _ratio(_dot(steps[-1], changes[-1]), _dot(changes[-1], inverse * changes[-1]))
        result = scale[:, None] * result
    for step, change, alpha in zip(steps, changes, reversed(alphas), strict=True):
        result = result + (alpha - _ratio(_dot(change, result), _dot(step, change)))[:, None] * step
    return result


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Quotient, and 0 where below is not positive: a remembered step without curvature says nothing."""
    return torch.where(below > 0, above / below.clamp(min=torch.finfo(below.dtype).tiny), 0.0)


def _line_search(
    logits: Tensor,
    turn: Tensor,
    truth: Tensor,
    weights: Tensor,
    direction: Tensor,
    penalty: Tensor,
    value: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Step lengths that meet the weak Wolfe conditions, by bisection; every try is cheap, as no rows are multiplied.

    Returns: lengths (s,), new objectives (s,), and which problems found no step (rounding leaves nothing to gain).
    """
    at, along, bend = (
        0.5 * _dot(penalty * a, b).double()
        for a, b in ((weights, weights), (weights, direction), (direction, direction))
    )
    start = value
    slack = 1e-7 * start.abs() if logits.dtype == torch.float32 else 1e-15 * start.abs()
    length, low = torch.ones_like(start), torch.zeros_like(start)
    high = torch.full_like(start, torch.inf)
    found = torch.zeros_like(start)
    value = start.clone()
    open_ = (slope < 0).nonzero()[:, 0]
    slope = slope.double()
    for _ in range(30):
        if not len(open_):
            break
        t = length[open_]
        moved = logits[:, open_] + t.to(logits)[:, None] * turn[:, open_]
        new = _cross_entropy(moved, truth) + at[open_] + 2 * t * along[open_] + t * t * bend[open_]
        tilt = ((moved.softmax(dim=2) - truth) * turn[:, open_]).sum(dim=2).sum(dim=0, dtype=torch.float64) / len(
            logits
        )
        tilt = tilt + 2 * along[open_] + 2 * t * bend[open_]
        high_enough = new > start[open_] + ARMIJO * t * slope[open_] + slack[open_]
        too_short = ~high_enough & (tilt < WOLFE * slope[open_])
        good = ~(high_enough | too_short)
        found[open_[good]], value[open_[good]] = t[good], new[good]
        high[open_[high_enough]], low[open_[too_short]] = t[high_enough], t[too_short]
        open_ = open_[~good]
        length[open_] = torch.where(high[open_].isinf(), 2 * low[open_], (low[open_] + high[open_]) / 2)
    return found.to(logits.dtype), value, found == 0
