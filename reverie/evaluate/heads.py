"""Linear heads on frozen features, with every choice made inside the train split.

Two protocols, both trying many settings side by side:

    logistic   L2 logistic regression at 45 strengths (fine-grained transfer: SynCLR, arXiv:2312.17742)
    sgd        ten linear heads at ten learning rates (ImageNet probe: StableRep, arXiv:2306.00984)

The setting is chosen on a held-out fifth of train, refitted on all of train, and only then is the test split opened.
The StableRep authors pick rate and epoch on the test metric, and train with random crops; here neither happens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reverie import seeds
from reverie.errors import InputError
from reverie.evaluate.logistic import fit_logistic
from reverie.evaluate.metrics.classification import mean_per_class, top1

STRENGTHS = tuple(float(value) for value in np.logspace(-6, 5, 45))  # L2, scikit-learn's 1 / C
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # times batch / 256
Protocol = Literal["logistic", "sgd"]
OpenTest = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Heads:
    """h linear classifiers on the same features, which are first centred and scaled."""

    mean: Tensor  # (d,)
    scale: Tensor  # (d,)
    weights: Tensor  # (h, d, c)
    bias: Tensor  # (h, c)

    def predict(self, x: Tensor) -> Tensor:
        """Class of each row by each head, int64 (h, n), for features (n, d)."""
        x = (x - self.mean) / self.scale
        return torch.stack([(x @ w + b).argmax(dim=1) for w, b in zip(self.weights, self.bias, strict=True)])


@dataclass(frozen=True)
class Probed:
    """What a probe found on the test split, and how it was chosen."""

    top1: float
    mean_per_class: float
    chosen: float  # L2 strength or base learning rate
    held_out: tuple[float, ...]  # top-1 on the held-out part of train, one a candidate
    predicted: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, np.dtype[np.int64]]


def probe(
    x: Tensor,
    labels: Tensor,
    open_test: OpenTest,
    num_classes: int,
    *,
    protocol: Protocol = "logistic",
    candidates: tuple[float, ...] = (),
    batch_norm: bool = False,
    held_out: float = 0.2,
    seed: int = 0,
) -> Probed:
    """Choose on train, refit on train, then open the test split, once.

    Args:
        x, labels: train features float32 (n, d) and classes int64 (n,), on the device that does the work.
        open_test: gives test features (m, d) and classes (m,); called once, after the classifier is final.
        candidates: L2 strengths or base learning rates; empty means those of the protocol.
        batch_norm: only for ``sgd``, see :func:`sgd_heads`.
        held_out: share of each class of train that the choice is made on.
    Raises: InputError if no class has two rows to split.
    """
    candidates = candidates or (STRENGTHS if protocol == "logistic" else RATES)
    choose, fit = functools.partial(logistic_heads, tolerance=1e-4), logistic_heads
    if protocol == "sgd":
        choose = fit = functools.partial(sgd_heads, batch_norm=batch_norm, seed=seed)
    inside, outside = (torch.from_numpy(rows).to(x.device) for rows in split(labels.cpu().numpy(), held_out, seed))
    guesses = choose(x[inside], labels[inside], num_classes, candidates).predict(x[outside])
    scores = (guesses == labels[outside]).double().mean(dim=1)
    # Of equally good candidates the middle one is the least accidental.
    equal = (scores == scores.max()).nonzero()[:, 0]
    best = int(equal[len(equal) // 2])
    final = fit(x, labels, num_classes, candidates[best : best + 1])

    test_x, test_labels = open_test()
    predicted, truth = final.predict(test_x)[0].cpu().numpy(), test_labels.cpu().numpy()
    return Probed(
        top1(predicted, truth),
        mean_per_class(predicted, truth),
        candidates[best],
        tuple(scores.tolist()),
        predicted,
        truth,
    )


def split(
    labels: np.ndarray[Any, Any], held_out: float, seed: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Row numbers of train without the held-out part, and of the held-out part: the same share of every class.

    A class keeps at least one row on each side; a class of one row stays in train.
    Raises: InputError if that leaves nothing to hold out.
    """
    draw = np.random.default_rng(seeds.derive("held out", seed))
    taken = []
    for number in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == number))
        if len(rows) > 1:
            taken.append(rows[: min(max(round(held_out * len(rows)), 1), len(rows) - 1)])
    if not taken:
        raise InputError("a probe needs a class with at least two labelled train photos, to hold one out")
    outside = np.sort(np.concatenate(taken))
    return np.setdiff1d(np.arange(len(labels)), outside), outside


def logistic_heads(
    x: Tensor, labels: Tensor, num_classes: int, strengths: tuple[float, ...], *, tolerance: float = 1e-6
) -> Heads:
    """One L2 logistic regression a strength, on features standardised with the statistics of these rows."""
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(scale > 1e-6 * scale.max(), scale, 1.0)  # a feature that never moves says nothing; leave it be
    grid = torch.tensor(strengths, dtype=torch.float64, device=x.device)
    found = fit_logistic((x - mean) / scale, labels, num_classes, grid, tolerance=tolerance)
    return Heads(mean, scale, found.weights, found.bias)


def sgd_heads(
    x: Tensor,
    labels: Tensor,
    num_classes: int,
    rates: tuple[float, ...],
    *,
    batch_norm: bool = False,
    epochs: int = 90,
    batch_size: int = 1024,
    seed: int = 0,
) -> Heads:
    """One linear head a base learning rate, trained side by side on the same batches by SGD with momentum 0.9.

    Rate = base * batch / 256, cosine to 0 a step, no warm-up, no weight decay, weights from N(0, 0.01), bias 0.

    Args:
        batch_norm: put a BatchNorm without weights (eps 1e-6) before the heads: batch statistics while training,
            their running average after.
        batch_size: all rows if there are fewer.
    """
    draw = torch.Generator().manual_seed(seeds.derive("sgd heads", seed))
    n, d = x.shape
    batch_size = min(batch_size, n)
    num_steps = epochs * (n // batch_size)
    mean, variance = x.new_zeros(d), x.new_ones(d)
    weights = (0.01 * torch.randn(d, num_classes, generator=draw)).to(x)[:, None].repeat(1, len(rates), 1)  # (d, h, c)
    bias = x.new_zeros(len(rates), num_classes)
    speed, bias_speed = torch.zeros_like(weights), torch.zeros_like(bias)
    peak = torch.tensor(rates, dtype=x.dtype, device=x.device)[:, None] * batch_size / 256
    for step in range(num_steps):
        place = step % (n // batch_size) * batch_size
        if place == 0:
            order = torch.randperm(n, generator=draw).to(x.device)
        rows = order[place : place + batch_size]
        batch = F.batch_norm(x[rows], mean, variance, training=True, eps=1e-6) if batch_norm else x[rows]
        logits = (batch @ weights.flatten(1)).view(batch_size, *bias.shape) + bias
        wrong = (logits.softmax(dim=2) - F.one_hot(labels[rows], num_classes).to(x)[:, None]) / batch_size
        speed = 0.9 * speed + (batch.T @ wrong.flatten(1)).view_as(weights)
        bias_speed = 0.9 * bias_speed + wrong.sum(dim=0)
        rate = peak * 0.5 * (1 + np.cos(np.pi * step / num_steps))
        weights, bias = weights - rate * speed, bias - rate * bias_speed
    scale = (variance + 1e-6).sqrt() if batch_norm else variance
    return Heads(mean, scale, weights.transpose(0, 1), bias)
