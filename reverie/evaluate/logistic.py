"""Multinomial logistic regression at many L2 strengths: batched L-BFGS, on any device.

Shapes: n rows, d features (+1 for the bias), s strengths at work together, c classes. Problems share the rows, so that one
matrix product serves a whole batch of them; a problem leaves the batch when it has converged. Batches go from strong to
weak, each starting where the last one ended, and are as large as the cache (CPU) or the memory (GPU) likes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ARMIJO, WOLFE = 1e-4, 0.9
CELLS = {"cpu": 1 << 19, "cuda": 1 << 27}  # numbers in the largest tensors of the problems at work together
TOGETHER = {
    "cpu": 4,
    "cuda": 1 << 10,
}  # most problems: on a CPU a good start, from the batch before, saves more than width
SURE = 5  # steps; before, a problem that starts from the solution of another knows no curvature, and takes itself for solved
FLAT = 0.01  # nats; below this the classes are decided, and the last per cent of the objective changes nothing


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
    tolerance: float = 1e-5,
    memory: int = 10,
) -> LogisticFit:
    """Minimise sum of cross-entropies + strength / 2 * |weights|^2 for every strength; the bias is not penalised.

    A strength is scikit-learn's 1 / C. L-BFGS starts from a diagonal: the penalty and the mean curvature at zero. The
    exact Hessian at zero took ten times the iterations, because on separable rows the minimum lies far from zero.

    Args:
        x: float (n, d), best standardised.
        labels: int64 (n,) in [0, num_classes).
        strengths: (s,), not negative.
        tolerance: stop a problem when its estimated distance to the minimum is below this share of its value (or of
            ``FLAT``, if that is more), and of what it has gained over weights of zero.
        memory: pairs of steps that L-BFGS remembers.
    Raises: ValueError for no rows, features not finite, or negative strengths.
    """
    n, d = x.shape
    if not n or not torch.isfinite(x).all() or (strengths < 0).any():
        raise ValueError(f"needs rows, finite features and strengths >= 0; got {n} rows")
    rows = torch.cat([x, x.new_ones(n, 1)], dim=1)  # (n, d+1)
    found = x.new_zeros(d + 1, len(strengths), num_classes)
    objective = torch.zeros(len(strengths), dtype=torch.float64, device=x.device)
    iterations = torch.zeros(len(strengths), dtype=torch.int64, device=x.device)
    start = x.new_zeros(d + 1, 1, num_classes)
    widest = max(n, 4 * (d + 1)) * num_classes  # logits, or some of the remembered steps, of one problem
    together = CELLS.get(x.device.type, CELLS["cpu"]) // widest
    together = max(min(together, TOGETHER.get(x.device.type, TOGETHER["cpu"])), 1)
    for batch in torch.split(strengths.to(x.device).argsort(descending=True), together):
        penalty = (strengths.to(x)[batch] / n)[None, :, None].repeat(d + 1, 1, 1)  # (d+1, s, 1)
        penalty[d] = 0
        for own, solution, value, count in _minimise(rows, labels, start, penalty, max_iterations, tolerance, memory):
            found[:, batch[own]], objective[batch[own]], iterations[batch[own]] = solution, value, count
        start = found[:, batch[-1:]]
    return LogisticFit(found[:d].transpose(0, 1), found[d], objective, iterations)


def _minimise(
    rows: Tensor, labels: Tensor, start: Tensor, penalty: Tensor, max_iterations: int, tolerance: float, memory: int
) -> list[tuple[Tensor, Tensor, Tensor, int]]:
    """L-BFGS on s problems at once.

    Returns: groups of problems as they finished: their numbers, solutions (d+1, k, c), objectives (k,) and iterations.
    """
    n, num, num_classes = len(rows), penalty.shape[1], start.shape[2]
    finished = []
    who = torch.arange(num, device=rows.device)  # the problems still at work; every tensor has them in dimension 1
    weights = start.repeat(1, num, 1)
    inverse = 1 / (rows.square().mean() / num_classes + penalty)
    logits = (rows @ weights.flatten(1)).view(n, num, num_classes)
    value, probabilities = _evaluate(logits, labels)
    value = value + 0.5 * _dot(penalty * weights, weights).double()
    gradient = _gradient(rows, labels, probabilities, weights, penalty)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    memory_weights: list[Tensor] = []
    stuck = torch.zeros(num, dtype=torch.bool, device=rows.device)
    for iteration in range(max_iterations + 1):
        direction = -_two_loops(gradient, steps, changes, memory_weights, inverse)
        slope = _dot(gradient, direction)  # minus half of it is what a quadratic has left to gain
        # Under a strong penalty all that can be gained is a small part of the objective, and decides all the same.
        gained = (math.log(num_classes) - value).clamp(min=0)
        near = -0.5 * slope.double() <= tolerance * torch.minimum(value.clamp(min=FLAT), gained)
        done = (near & (iteration >= SURE)) | stuck | (iteration == max_iterations)
        if done.any():
            ready, left = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
            finished.append((who[ready], weights[:, ready], value[ready], iteration))
            if not len(left):
                break
            who, value, slope = who[left], value[left], slope[left]
            weights, logits, gradient = weights[:, left], logits[:, left], gradient[:, left]
            direction, penalty, inverse = direction[:, left], penalty[:, left], inverse[:, left]
            steps, changes = [item[:, left] for item in steps], [item[:, left] for item in changes]
            memory_weights = [item[left] for item in memory_weights]

        turn = (rows @ direction.flatten(1)).view_as(logits)  # logits move by t * turn along the direction
        length, value, logits, probabilities = _line_search(
            logits, turn, labels, weights, direction, penalty, value, slope.double()
        )
        stuck = length == 0
        step = length[:, None] * direction
        weights = weights + step
        before, gradient = gradient, _gradient(rows, labels, probabilities, weights, penalty)
        steps, changes = [*steps, step][-memory:], [*changes, gradient - before][-memory:]
        memory_weights = [*memory_weights, _over(_dot(step, changes[-1]))][-memory:]
    return finished


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each problem, (s,)."""
    return (a * b).sum(dim=(0, 2))


def _evaluate(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (s,), in float64 because small differences decide the line search; and probabilities."""
    logs = logits.log_softmax(dim=2)
    cost = -_of_label(logs, labels).mean(dim=0, dtype=torch.float64)
    # Smaller ones change nothing but the time: a product with denormal numbers is ten times slower.
    return cost, logs.clamp_(min=-60).exp_()


def _of_label(values: Tensor, labels: Tensor) -> Tensor:
    """The entry of each row's own class: (n, s, c) to (n, s)."""
    return values.gather(2, labels[:, None, None].expand(-1, values.shape[1], 1))[:, :, 0]


def _gradient(rows: Tensor, labels: Tensor, probabilities: Tensor, weights: Tensor, penalty: Tensor) -> Tensor:
    """Uses up the probabilities: they become probabilities less truth."""
    where = labels[:, None, None].expand(-1, probabilities.shape[1], 1)
    wrong = probabilities.scatter_add_(2, where, probabilities.new_full(where.shape, -1.0))
    return (rows.T @ wrong.flatten(1)).view_as(weights) / len(rows) + penalty * weights


def _two_loops(
    gradient: Tensor, steps: list[Tensor], changes: list[Tensor], weights: list[Tensor], inverse: Tensor
) -> Tensor:
    """Inverse Hessian times gradient from remembered steps (Nocedal and Wright, algorithm 7.4), all problems at once.

    A weight is one over the inner product of a step with the change of the gradient along it, (s,), and 0 where that is not
    positive: a step without curvature says nothing.
    """
    result, alphas = gradient.clone(), []
    for step, change, weight in zip(reversed(steps), reversed(changes), reversed(weights), strict=True):
        alpha = weight * _dot(step, result)
        result.addcmul_(alpha[:, None], change, value=-1)
        alphas.append(alpha)
    result *= inverse
    if steps:
        bent = weights[-1] * _dot(changes[-1], inverse * changes[-1])
        result *= _over(bent)[:, None]
    for step, change, weight, alpha in zip(steps, changes, weights, reversed(alphas), strict=True):
        result.addcmul_((alpha - weight * _dot(change, result))[:, None], step)
    return result


def _over(below: Tensor) -> Tensor:
    """One over it, and 0 where it is not positive."""
    return torch.where(below > 0, 1 / below.clamp(min=torch.finfo(below.dtype).tiny), 0.0)


def _line_search(
    logits: Tensor,
    turn: Tensor,
    labels: Tensor,
    weights: Tensor,
    direction: Tensor,
    penalty: Tensor,
    value: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Step lengths that meet the weak Wolfe conditions, by bisection; every try is cheap, as no rows are multiplied.

    Returns: lengths (s,), 0 where rounding leaves no step to find; and objective, logits and probabilities there.
    """
    at, along, bend = (
        0.5 * _dot(penalty * a, b).double()
        for a, b in ((weights, weights), (weights, direction), (direction, direction))
    )
    slack = (1e-7 if logits.dtype == torch.float32 else 1e-15) * value.abs()  # what rounding may add
    length, low, high = torch.ones_like(value), torch.zeros_like(value), torch.full_like(value, torch.inf)
    tried = torch.arange(len(value), device=value.device)
    toward = _of_label(turn, labels).mean(dim=0, dtype=torch.float64)
    for attempt in range(31):
        here, turned = (logits[:, tried], turn[:, tried]) if attempt else (logits, turn)
        t = length[tried] if attempt < 30 else torch.zeros_like(length[tried])  # give up and stay
        moved = torch.addcmul(here, t.to(here)[:, None], turned)
        cost, probabilities = _evaluate(moved, labels)
        new = cost + at[tried] + 2 * t * along[tried] + t * t * bend[tried]
        tilt = (probabilities * turned).sum(dim=2).mean(dim=0, dtype=torch.float64) - toward[tried]
        tilt = tilt + 2 * along[tried] + 2 * t * bend[tried]
        too_long = new > value[tried] + ARMIJO * t * slope[tried] + slack[tried]
        too_short = ~too_long & (tilt < WOLFE * slope[tried])
        good = ~(too_long | too_short) | (t == 0)
        if attempt == 0:
            final, final_value, final_logits, final_probabilities = t, new, moved, probabilities
        else:  # what was not good is overwritten until it is
            final[tried], final_value[tried] = t, new
            final_logits[:, tried], final_probabilities[:, tried] = moved, probabilities
        if good.all():
            break
        high[tried[too_long]], low[tried[too_short]] = t[too_long], t[too_short]
        tried = tried[~good]
        length[tried] = torch.where(high[tried].isinf(), 2 * low[tried], (low[tried] + high[tried]) / 2)
    return final.to(logits), final_value, final_logits, final_probabilities
