"""Linear heads on frozen features, with every choice made inside the train split.

Two protocols, both trying many settings side by side:

    logistic   L2 logistic regression at 45 strengths (fine-grained transfer: SynCLR, arXiv:2312.17742)
    sgd        ten linear heads at ten learning rates (ImageNet probe: StableRep, arXiv:2306.00984)

The setting is chosen on a held-out fifth of train, or by cross-validation, refitted on all of train, and only then is the test
split opened.
The StableRep authors pick rate and epoch on the test metric; here that never happens. They train on random crops, so that
the features differ from epoch to epoch: that is ``SgdProbe``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from reverie import seeds
from reverie.errors import InputError
from reverie.evaluate.logistic import fit_logistic
from reverie.evaluate.metrics.classification import mean_per_class, top1

STRENGTHS = tuple(float(value) for value in np.logspace(-6, 5, 45))  # L2, scikit-learn's 1 / C
# A strength a decade from 1 on. With few classes weaker ones take many times the steps, and are hardly ever chosen.
OF_ATTRIBUTES = STRENGTHS[24::4]
FOLDS_OF_ATTRIBUTES = (
    5  # 256 of 1,280 photos, held out once, chose anything from 10 to 100,000 for networks that 100 suited best
)
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # times batch / 256
EPOCHS = 90  # of the protocol sgd
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
    held_out: tuple[float, ...]  # top-1 on the held-out part of train, or its mean over folds, one a candidate
    predicted: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    folds: int = 1  # of train that were held out in turns to choose; 1 = a share of it, once


def probe(
    x: Tensor,
    labels: Tensor,
    open_test: OpenTest,
    num_classes: int,
    *,
    protocol: Protocol = "logistic",
    candidates: tuple[float, ...] = (),
    batch_norm: bool = False,
    epochs: int = EPOCHS,
    held_out: float = 0.2,
    folds: int = 1,
    seed: int = 0,
) -> Probed:
    """Choose on train, refit on train, then open the test split, once.

    Args:
        x, labels: train features float32 (n, d) and classes int64 (n,), on the device that does the work.
        open_test: gives test features (m, d) and classes (m,); called once, after the classifier is final.
        candidates: L2 strengths or base learning rates; empty means those of the protocol.
        batch_norm, epochs: only for ``sgd``, see :func:`sgd_heads`.
        held_out: share of each class of train that the choice is made on.
        folds: above 1, all of train is held out in as many turns in place of a share of it, and the mean top-1 chooses: it costs
            as many fits, and a few hundred rows choose badly. Fewer where the largest class has fewer rows.
    Raises: InputError if no class has two rows to split.
    """
    candidates = candidates or (STRENGTHS if protocol == "logistic" else RATES)
    choose, fit = functools.partial(logistic_heads, tolerance=1e-4), logistic_heads
    if protocol == "sgd":
        choose = fit = functools.partial(sgd_heads, batch_norm=batch_norm, epochs=epochs, seed=seed)
    parts = _folds(labels, folds, seed) if folds > 1 else [_split(labels, held_out, seed)]
    scores = torch.stack([
        _scores(choose(x[inside], labels[inside], num_classes, candidates).predict(x[outside]), labels[outside])
        for inside, outside in parts
    ]).mean(dim=0)  # fmt: skip
    best = _best(scores)
    final = fit(x, labels, num_classes, candidates[best : best + 1])
    test_x, test_labels = open_test()
    return _probed(final.predict(test_x)[0], test_labels, candidates[best], scores, len(parts))


class SgdProbe:
    """Protocol ``sgd`` on features of train that are new in every epoch, such as those of random crops.

    What chooses the rate and what is measured are trained beside each other, because features cost more than heads: on train
    without the held-out part, and on all of it.
    """

    def __init__(
        self,
        labels: Tensor,
        num_features: int,
        num_classes: int,
        *,
        candidates: tuple[float, ...] = (),
        batch_norm: bool = False,
        held_out: float = 0.2,
        epochs: int = EPOCHS,
        seed: int = 0,
    ) -> None:
        """Args: as of :func:`probe`. Raises: as it."""
        self._labels, self._rates = labels, candidates or RATES
        self._inside, self._outside = _split(labels, held_out, seed)
        self._choosing, self._final = (
            SgdTraining(rows, num_features, num_classes, self._rates, batch_norm=batch_norm, epochs=epochs, seed=seed)
            for rows in (labels[self._inside], labels)
        )

    def epoch(self, x: Tensor) -> None:
        """Train on all of train as it is in this epoch, (n, d)."""
        self._choosing.epoch(x[self._inside])
        self._final.epoch(x)

    def finish(self, x: Tensor, open_test: OpenTest) -> Probed:
        """Choose, then open the test split, once. Args: ``x``, train as the test split will be, without crops."""
        guesses = self._choosing.heads().predict(x[self._outside])
        scores = _scores(guesses, self._labels[self._outside])
        best = _best(scores)
        test_x, test_labels = open_test()
        predicted = self._final.heads().predict(test_x)[best]
        return _probed(predicted, test_labels, self._rates[best], scores)


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
    epochs: int = EPOCHS,
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
    training = SgdTraining(
        labels, x.shape[1], num_classes, rates, batch_norm=batch_norm, epochs=epochs, batch_size=batch_size, seed=seed
    )
    for _ in range(epochs):
        training.epoch(x)
    return training.heads()


class SgdTraining:
    """What :func:`sgd_heads` does, an epoch at a time. Its arguments, with the length of a row in place of the rows."""

    def __init__(
        self,
        labels: Tensor,
        num_features: int,
        num_classes: int,
        rates: tuple[float, ...],
        *,
        batch_norm: bool = False,
        epochs: int = EPOCHS,
        batch_size: int = 1024,
        seed: int = 0,
    ) -> None:
        self._draw = torch.Generator().manual_seed(seeds.derive("sgd heads", seed))
        self._labels, self._batch_norm = labels, batch_norm
        self._batch_size = min(batch_size, len(labels))
        self._step, self._num_steps = 0, epochs * (len(labels) // self._batch_size)
        device, d, h = labels.device, num_features, len(rates)
        self._mean, self._variance = torch.zeros(d, device=device), torch.ones(d, device=device)
        first = (0.01 * torch.randn(d, num_classes, generator=self._draw)).to(device)
        self._weights = first[:, None].repeat(1, h, 1)  # (d, h, c)
        self._bias = torch.zeros(h, num_classes, device=device)
        self._speed, self._bias_speed = torch.zeros_like(self._weights), torch.zeros_like(self._bias)
        self._peak = torch.tensor(rates, device=device)[:, None] * self._batch_size / 256

    def epoch(self, x: Tensor) -> None:
        """One pass over all rows (n, d) in a new order; those too few for a batch wait for the next one."""
        n, size = len(x), self._batch_size
        order = torch.randperm(n, generator=self._draw).to(x.device)
        for place in range(0, n // size * size, size):
            rows = order[place : place + size]
            batch = x[rows]
            if self._batch_norm:
                batch = F.batch_norm(batch, self._mean, self._variance, training=True, eps=1e-6)
            logits = (batch @ self._weights.flatten(1)).view(size, *self._bias.shape) + self._bias
            truth = F.one_hot(self._labels[rows], self._bias.shape[1]).to(x)[:, None]
            wrong = (logits.softmax(dim=2) - truth) / size
            self._speed = 0.9 * self._speed + (batch.T @ wrong.flatten(1)).view_as(self._weights)
            self._bias_speed = 0.9 * self._bias_speed + wrong.sum(dim=0)
            rate = self._peak * 0.5 * (1 + np.cos(np.pi * self._step / self._num_steps))
            self._weights, self._bias = self._weights - rate * self._speed, self._bias - rate * self._bias_speed
            self._step += 1

    def heads(self) -> Heads:
        """As they are now."""
        scale = (self._variance + 1e-6).sqrt() if self._batch_norm else self._variance
        return Heads(self._mean, scale, self._weights.transpose(0, 1), self._bias)


def _split(labels: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    inside, outside = split(labels.cpu().numpy(), held_out, seed)
    return torch.from_numpy(inside).to(labels.device), torch.from_numpy(outside).to(labels.device)


def _folds(labels: Tensor, folds: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """As many pairs of row numbers inside and outside; every row is outside once, and every class is dealt evenly."""
    rows = labels.cpu().numpy()
    folds = min(folds, int(np.bincount(rows).max()))
    if folds < 2:
        raise InputError("a probe needs a class with at least two labelled train photos, to hold one out")
    deal = StratifiedKFold(folds, shuffle=True, random_state=seeds.derive("folds", seed) % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer rows than folds
        parts = list(deal.split(np.zeros(len(rows)), rows))
    return [tuple(torch.from_numpy(part).to(labels.device) for part in pair) for pair in parts]  # type: ignore[misc]


def _scores(guesses: Tensor, labels: Tensor) -> Tensor:
    """Top-1 of each of several heads, (h,)."""
    return (guesses == labels).double().mean(dim=1)


def _best(scores: Tensor) -> int:
    """The best of several heads. Of equally good ones the middle one is the least accidental."""
    equal = (scores == scores.max()).nonzero()[:, 0]
    return int(equal[len(equal) // 2])


def _probed(guesses: Tensor, labels: Tensor, chosen: float, scores: Tensor, folds: int = 1) -> Probed:
    predicted, truth = guesses.cpu().numpy(), labels.cpu().numpy()
    return Probed(
        top1(predicted, truth),
        mean_per_class(predicted, truth),
        chosen,
        tuple(scores.tolist()),
        predicted,
        truth,
        folds,
    )
